// NVML's own functions, by its documented ABI, for a machine whose GPUs are the rows of GPUS: brand, capability, name, answer.
// It must never do anything but answer: what is tested is how its answers are read.
#include <stdio.h>
#include <string.h>

struct gpu { int brand, major, minor; const char *name; int answer; };
static struct gpu gpus[] = { GPUS };
static int open_now;

#define NVML_ERROR_UNINITIALIZED 1
#define NVML_ERROR_INVALID_ARGUMENT 2

int nvmlInit_v2(void) { open_now++; return 0; }
int nvmlInitWithFlags(unsigned flags) { (void)flags; open_now++; return 0; }
int nvmlShutdown(void) { open_now--; return 0; }
const char *nvmlErrorString(int answer) { (void)answer; return "an NVML error"; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    if (!open_now) return NVML_ERROR_UNINITIALIZED;
    *count = sizeof gpus / sizeof gpus[0];
    return 0;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct gpu **device) {
    if (index >= sizeof gpus / sizeof gpus[0]) return NVML_ERROR_INVALID_ARGUMENT;
    *device = &gpus[index];
    return gpus[index].answer;
}

int nvmlDeviceGetCudaComputeCapability(struct gpu *device, int *major, int *minor) {
    *major = device->major;
    *minor = device->minor;
    return 0;
}

int nvmlDeviceGetBrand(struct gpu *device, int *brand) {
    *brand = device->brand;
    return 0;
}

int nvmlDeviceGetName(struct gpu *device, char *name, unsigned length) {
    snprintf(name, length, "%s", device->name);
    return 0;
}
