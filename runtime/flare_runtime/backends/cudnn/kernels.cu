// What a U-Net computes beside its convolutions, in float16 with the channels of a voxel side by side.
//
// A group is 8 channels, 16 bytes. A pitch counts the groups of a voxel of the buffer that a tensor lies in. In the
// norm's and the affine kernel a thread keeps its group, and a block handles blockDim.x / groups voxels at a time.
// Sums are float32 or float64 and in a fixed order, so the same tile gives the same bits.

typedef long long wide;
typedef unsigned short bits;  // of a float16

#ifdef __CUDACC__  // without headers, so that NVRTC needs no CUDA toolkit
__device__ float to_float(bits half) {
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
  return x;
}

__device__ bits to_half(float x) {
  bits half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
}
#endif

__device__ void load(const uint4* from, float* values) {
  const uint4 packed = *from;
  const unsigned int words[4] = {packed.x, packed.y, packed.z, packed.w};
  for (int i = 0; i < 8; ++i) values[i] = to_float((bits)(words[i / 2] >> 16 * (i % 2)));
}

__device__ void store(uint4* to, const float* values) {
  unsigned int words[4] = {};
  for (int i = 0; i < 8; ++i) words[i / 2] |= (unsigned int)to_half(values[i]) << 16 * (i % 2);
  *to = make_uint4(words[0], words[1], words[2], words[3]);
}

// The tile (channels, voxels) in float32 to float16 (voxels, 8 * groups), filled up with zeros.
extern "C" __global__ void pack_tile(const float* tile, int channels, uint4* out, int groups, int voxels) {
  const int voxel = blockIdx.x * blockDim.x + threadIdx.x;
  for (int group = 0; group < groups && voxel < voxels; ++group) {
    float value[8] = {};
    for (int i = 0, c = group * 8; i < 8 && c < channels; ++i, ++c) value[i] = tile[(wide)c * voxels + voxel];
    store(out + (wide)voxel * groups + group, value);
  }
}

// Each channel's mean and sum of squared deviations over the `chunk` voxels of a block. The chunk's first voxel is
// subtracted before, which keeps them exact where the mean is large beside the deviation.
extern "C" __global__ void __launch_bounds__(256, 5)
norm_stats(const uint4* x, int groups, float2* partial, int voxels, int chunk) {
  __shared__ float sums[16][256];
  const int thread = threadIdx.x, lanes = blockDim.x / groups, group = thread % groups, lane = thread / groups;
  const int first = blockIdx.x * chunk, last = first + chunk < voxels ? first + chunk : voxels;
  const uint4* from = x + group;
  float pivot[8], value[8], sum[8] = {}, square[8] = {};
  load(from + (wide)first * groups, pivot);
#pragma unroll 4
  for (int voxel = first + lane; voxel < last; voxel += lanes) {
    load(from + (wide)voxel * groups, value);
    for (int i = 0; i < 8; ++i) {
      value[i] -= pivot[i];
      sum[i] += value[i];
      square[i] += value[i] * value[i];
    }
  }
  for (int i = 0; i < 8; ++i) {
    sums[i][thread] = sum[i];
    sums[8 + i][thread] = square[i];
  }
  for (int half = 128; half > 0; half /= 2) {
    __syncthreads();
    if (lane >= half || lane + half >= lanes) continue;
    for (int i = 0; i < 16; ++i) sums[i][thread] += sums[i][thread + half * groups];
  }
  for (int i = 0; i < 8 && lane == 0; ++i) {
    const float mean = sums[i][thread] / (last - first);
    const float deviations = sums[8 + i][thread] - mean * sums[i][thread];
    partial[((wide)blockIdx.x * groups + group) * 8 + i] = {pivot[i] + mean, deviations};
  }
}

// A channel's chunks together: what to multiply it with and what to add. A block is 32 channels by 32 threads each.
extern "C" __global__ void norm_finish(const float2* partial, const float* gamma, const float* beta, float* scale,
                                       float* shift, int channels, int chunks, int voxels, int chunk, float epsilon) {
  __shared__ double sums[2][32][32];
  const int channel = blockIdx.x * 32 + threadIdx.x;
  double mean = 0, square = 0;
  for (int i = threadIdx.y; i < chunks && channel < channels; i += 32) {
    const float2 part = partial[(wide)i * channels + channel];
    const double count = i + 1 < chunks ? chunk : voxels - i * chunk;
    mean += count * part.x;
    square += part.y + count * part.x * part.x;
  }
  sums[0][threadIdx.y][threadIdx.x] = mean;
  sums[1][threadIdx.y][threadIdx.x] = square;
  __syncthreads();
  if (threadIdx.y > 0 || channel >= channels) return;
  for (int i = 1; i < 32; ++i) {
    mean += sums[0][i][threadIdx.x];
    square += sums[1][i][threadIdx.x];
  }
  mean /= voxels;
  const double variance = square / voxels - mean * mean;
  const double factor = gamma[channel] / sqrt(fmax(variance, 0.0) + epsilon);
  scale[channel] = (float)factor;
  shift[channel] = (float)(beta[channel] - mean * factor);
}

// leaky(x * scale + shift + added) to one or two places, of which one may be x itself. With sz * sy * sx > 1 output
// voxels of every input voxel one after the other, as a transposed convolution's products are, x is scattered.
extern "C" __global__ void __launch_bounds__(256, 5)
affine(const uint4* x, int x_pitch, const float* scale, const float* shift, const uint4* added, int added_pitch,
       uint4* first, int first_pitch, uint4* second, int second_pitch, float slope, int sz, int sy, int sx, int height,
       int width, int groups, int voxels) {
  const int lanes = blockDim.x / groups, group = threadIdx.x % groups, taps = sz * sy * sx;
  float factor[8], offset[8], value[8], other[8] = {};
  for (int i = 0; i < 8; ++i) {
    factor[i] = scale[group * 8 + i];
    offset[i] = shift[group * 8 + i];
  }
  for (int voxel = blockIdx.x * lanes + threadIdx.x / groups; voxel < voxels; voxel += gridDim.x * lanes) {
    int from = voxel, tap = 0;
    if (taps > 1) {
      const int col = voxel % width, row = voxel / width % height, slice = voxel / width / height;
      from = (slice / sz * (height / sy) + row / sy) * (width / sx) + col / sx;
      tap = (slice % sz * sy + row % sy) * sx + col % sx;
    }
    load(x + (wide)from * x_pitch + tap * groups + group, value);
    if (added) load(added + (wide)voxel * added_pitch + group, other);
    for (int i = 0; i < 8; ++i) {
      value[i] = value[i] * factor[i] + offset[i] + other[i];
      value[i] *= value[i] < 0 ? slope : 1;
    }
    store(first + (wide)voxel * first_pitch + group, value);
    if (second) store(second + (wide)voxel * second_pitch + group, value);
  }
}

// The last 1x1x1 convolution to logits (OUTPUTS, voxels) in float32.
extern "C" __global__ void head(const uint4* x, int pitch, int groups, const float* weights, const float* bias,
                                float* logits, int voxels) {
  const int voxel = blockIdx.x * blockDim.x + threadIdx.x;
  if (voxel >= voxels) return;
  float value[8], sums[OUTPUTS];
  for (int k = 0; k < OUTPUTS; ++k) sums[k] = bias[k];
  for (int group = 0; group < groups; ++group) {
    load(x + (wide)voxel * pitch + group, value);
#pragma unroll
    for (int i = 0; i < 8 * OUTPUTS; ++i) sums[i % OUTPUTS] += value[i / OUTPUTS] * weights[group * 8 * OUTPUTS + i];
  }
  for (int k = 0; k < OUTPUTS; ++k) logits[(wide)k * voxels + voxel] = sums[k];
}
