// SPDX-License-Identifier: MIT
// The one place that includes headers of MLX which are not part of its public
// interface. Own kernels are built against exactly the version that
// cmake/Dependencies.cmake names.
#pragma once

#include "mlx/allocator.h"
#include "mlx/backend/cpu/encoder.h"
#include "mlx/primitives.h"
