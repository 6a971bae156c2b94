/* A driver library with faults on purpose: what it says is in the environment. Only what service/gpu asks is here. */
#include <stdio.h>
#include <stdlib.h>

static int number(const char *name, int otherwise) {
  const char *value = getenv(name);
  return value ? atoi(value) : otherwise;
}

int cuDriverGetVersion(int *version) {
  *version = number("FAKE_CUDA_VERSION", 12040);
  return number("FAKE_CUDA_VERSION_STATUS", 0);
}
int cuInit(unsigned flags) { return number("FAKE_CUDA_INIT", 0); }
int cuDeviceGetCount(int *count) {
  *count = number("FAKE_CUDA_COUNT", 1);
  return 0;
}
int cuDeviceGet(int *device, int ordinal) {
  *device = ordinal;
  return 0;
}
int cuDeviceGetName(char *name, int size, int device) {
  snprintf(name, size, "Fake GPU");
  return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  int capability = number("FAKE_CUDA_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : capability % 10;
  return 0;
}
