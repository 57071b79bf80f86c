// Finds the driver's JIT compiler the way libcuda does, and compiles real PTX with it. No GPU is needed.
//
//   jit LIBCUDA ISA…   first a line "jit PATH" or "jit -" (not found), then a line "ISA CODE" for each PTX ISA
//
// libcuda opens its siblings by bare name, and ld.so then walks the search path of libcuda, not of the program. Without
// a GPU libcuda never gets that far, so this program asks ld.so for exactly that path (dlinfo, RTLD_DI_SERINFO) and
// walks it itself. LIBCUDA is a bare name (found by this program's RUNPATH) or a path. It must never search on its own.
// Codes: 0 compiled; 7 the PTX is newer than this compiler (222 in the words of the driver API); 3 the PTX is invalid.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define JIT "libnvidia-ptxjitcompiler.so.1"

// Opens JIT from the first directory of libcuda's search path that has it.
static void *open_jit(void *libcuda) {
  Dl_serinfo size;
  if (dlinfo(libcuda, RTLD_DI_SERINFOSIZE, &size)) return NULL;
  Dl_serinfo *path = malloc(size.dls_size);
  if (!path || dlinfo(libcuda, RTLD_DI_SERINFOSIZE, path) || dlinfo(libcuda, RTLD_DI_SERINFO, path)) return NULL;
  for (unsigned i = 0; i < path->dls_cnt; i++) {
    char file[4096];
    snprintf(file, sizeof file, "%s/%s", path->dls_serpath[i].dls_name, JIT);
    void *jit = dlopen(file, RTLD_NOW | RTLD_LOCAL);
    if (jit) {
      printf("jit %s\n", file);
      return jit;
    }
  }
  return NULL;
}

static int compile(void *jit, const char *isa) {
  int (*create)(void **, size_t, const char *) = (int (*)(void **, size_t, const char *))dlsym(jit, "nvPTXCompilerCreate");
  int (*run)(void *, int, const char *const *) = (int (*)(void *, int, const char *const *))dlsym(jit, "nvPTXCompilerCompile");
  int (*destroy)(void **) = (int (*)(void **))dlsym(jit, "nvPTXCompilerDestroy");
  if (!create || !run || !destroy) return -1;
  char ptx[512];
  snprintf(ptx, sizeof ptx,
           ".version %s\n.target sm_80\n.address_size 64\n"
           ".visible .entry twice(.param .u64 p) {\n"
           "  .reg .b64 %%a<3>; .reg .b32 %%r<3>;\n"
           "  ld.param.u64 %%a1, [p]; cvta.to.global.u64 %%a2, %%a1;\n"
           "  ld.global.u32 %%r1, [%%a2]; add.u32 %%r2, %%r1, %%r1; st.global.u32 [%%a2], %%r2;\n  ret;\n}\n",
           isa);
  void *handle = NULL;
  int code = create(&handle, strlen(ptx), ptx);
  if (code) return code;
  const char *const options[] = {"--gpu-name=sm_80"};
  code = run(handle, 1, options);
  destroy(&handle);
  return code;
}

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  void *libcuda = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!libcuda) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  void *jit = open_jit(libcuda);
  if (!jit) puts("jit -");
  for (int i = 2; jit && i < argc; i++) printf("%s %d\n", argv[i], compile(jit, argv[i]));
  return 0;
}
