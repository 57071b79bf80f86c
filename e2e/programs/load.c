// Asks libcuda itself to compile PTX for the first GPU, as every program does whose code is older than the GPU.
//
//   load LIBCUDA ISA    a line "load CODE": what cuModuleLoadData answers; 0 loaded, 221 no JIT compiler was found
//
// LIBCUDA is a bare name (found by this program's RUNPATH) or a path. It must never help libcuda to its siblings.
#include <dlfcn.h>
#include <stdio.h>

// Calls that need a GPU; each answers a CUresult.
typedef int (*init_t)(unsigned);
typedef int (*device_t)(int *, int);
typedef int (*retain_t)(void **, int);
typedef int (*current_t)(void *);
typedef int (*load_t)(void **, const void *);

#define CALL(name, type, ...)                                                  \
  do {                                                                         \
    type call = (type)dlsym(libcuda, name);                                    \
    int code = call ? call(__VA_ARGS__) : -1;                                  \
    if (code) {                                                                \
      fprintf(stderr, "%s: %d\n", name, code);                                 \
      return 1;                                                                \
    }                                                                          \
  } while (0)

int main(int argc, char **argv) {
  if (argc != 3) return 2;
  void *libcuda = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
  if (!libcuda) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int device = 0;
  void *context = NULL, *module = NULL;
  CALL("cuInit", init_t, 0);
  CALL("cuDeviceGet", device_t, &device, 0);
  CALL("cuDevicePrimaryCtxRetain", retain_t, &context, device);
  CALL("cuCtxSetCurrent", current_t, context);
  char ptx[256];
  snprintf(ptx, sizeof ptx, ".version %s\n.target sm_50\n.address_size 64\n.visible .entry nothing() { ret; }\n", argv[2]);
  load_t load = (load_t)dlsym(libcuda, "cuModuleLoadData");
  printf("load %d\n", load ? load(&module, ptx) : -1);
  return 0;
}
