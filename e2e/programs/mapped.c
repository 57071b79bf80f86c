// Asks a real CUDA runtime for the number of devices, as count does, and tells which of a driver's files this process has in memory then.
//
//   mapped   a line "RUNTIME CODE", then the path of each mapped file that is called libcuda.so… or libnvidia…
//
// It finds the runtime by its own RUNPATH. It must not open any of the driver's files itself.
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

static int is_the_drivers(const char *path) {
  const char *name = strrchr(path, '/');
  return name && (!strncmp(name, "/libcuda.so", 11) || !strncmp(name, "/libnvidia", 10));
}

int main(void) {
  void *runtime = dlopen(RUNTIME, RTLD_NOW | RTLD_LOCAL);
  int (*device_count)(int *) = runtime ? (int (*)(int *))dlsym(runtime, "cudaGetDeviceCount") : NULL;
  if (!device_count) {
    fprintf(stderr, "%s\n", dlerror());
    return 1;
  }
  int devices = -1;
  printf("%s %d\n", RUNTIME, device_count(&devices));
  FILE *maps = fopen("/proc/self/maps", "r");
  if (!maps) return 1;
  char line[8192], last[4096] = "", path[4096];
  while (fgets(line, sizeof line, maps)) {
    // A file's mappings stand together.
    if (sscanf(line, "%*s %*s %*s %*s %*s %4095s", path) != 1 || !is_the_drivers(path) || !strcmp(path, last)) continue;
    puts(path);
    strcpy(last, path);
  }
  return fclose(maps);
}
