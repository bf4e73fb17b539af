// Stands in for NVIDIA's header of this name where tests run CUDA sources on the CPU.
#pragma once

#include "emulation.h"
#include "runtime.h"
