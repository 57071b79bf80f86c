// Loads a libcuda and asks it for its CUDA release, before anything is initialised: that needs no GPU and touches no device.
//
//   version LIBCUDA [LIBRARY…]   a line with cuDriverGetVersion's number; then each further library is loaded too
//
// It must never call cuInit or nvmlInit: as root both create /dev/nvidiactl.
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv) {
  if (argc < 2) return 2;
  for (int i = 1; i < argc; i++) {
    void *library = dlopen(argv[i], RTLD_NOW | RTLD_LOCAL);
    if (!library) {
      fprintf(stderr, "%s\n", dlerror());
      return 1;
    }
    if (i > 1) continue;
    int (*version)(int *) = (int (*)(int *))dlsym(library, "cuDriverGetVersion");
    int number = 0;
    if (!version || version(&number)) return 3;
    printf("%d\n", number);
  }
  return 0;
}
