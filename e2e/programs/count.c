// Asks real CUDA runtimes for the number of devices and prints their codes: 100 where the driver fits and there is
// no GPU, 35 where the driver is too old, 0 on a machine with a GPU.
//
//   count [LIBRARY…]   one line "LIBRARY CODE" each; all are loaded into this one process and stay loaded
//
// It links no CUDA library, so that ld.so alone decides, by this program's own RUNPATH, what a bare name means. It
// must not look at LD_LIBRARY_PATH, preload anything or open libcuda itself: finding the driver is the runtime's task.
#include <dlfcn.h>
#include <stdio.h>

#ifndef RUNTIME
#define RUNTIME "libcudart.so"
#endif

static int ask(const char *library) {
  void *runtime = dlopen(library, RTLD_NOW | RTLD_LOCAL);
  if (!runtime) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int (*device_count)(int *) = (int (*)(int *))dlsym(runtime, "cudaGetDeviceCount");
  if (!device_count) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int devices = -1;
  printf("%s %d\n", library, device_count(&devices));
  return 0;
}

int main(int argc, char **argv) {
  if (argc == 1) return ask(RUNTIME);
  for (int i = 1; i < argc; i++)
    if (ask(argv[i])) return 1;
  return 0;
}
