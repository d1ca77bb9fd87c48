// Behind the kernels: their signatures, and what runs a grid of one.
template <class... A, size_t... I> void apply(void (*f)(A...), void** args, std::index_sequence<I...>) {
  f(*(A*)args[I]...);
}
template <class... A> void call(void (*f)(A...), void** args) { apply(f, args, std::index_sequence_for<A...>{}); }

// i and f: numbers; F, 2 and U: addresses of float, float2 and uint4.
template <class T> char code();
template <> char code<int>() { return 'i'; }
template <> char code<float>() { return 'f'; }
template <> char code<const float*>() { return 'F'; }
template <> char code<float*>() { return 'F'; }
template <> char code<const uint4*>() { return 'U'; }
template <> char code<uint4*>() { return 'U'; }
template <> char code<const float2*>() { return '2'; }
template <> char code<float2*>() { return '2'; }
template <class... A> void sign(void (*)(A...), char* out) {
  const char all[] = {code<A>()..., 0};
  strcpy(out, all);
}

#define WITH(run) \
  if (!strcmp(name, "pack_tile")) run(pack_tile); \
  else if (!strcmp(name, "norm_stats")) run(norm_stats); \
  else if (!strcmp(name, "norm_finish")) run(norm_finish); \
  else if (!strcmp(name, "affine")) run(affine); \
  else if (!strcmp(name, "head")) run(head); \
  else abort();

extern "C" void signature(const char* name, char* out) {
#define SIGN(kernel) sign(kernel, out)
  WITH(SIGN)
}

static const char* running;
static void** arguments;
static void body() {
  const char* name = running;
#define CALL(kernel) call(kernel, arguments)
  WITH(CALL)
}
static void fiber(int thread) { body(); done[thread] = 1; }

extern "C" void launch(const char* name, int blocks, int width, int height, int barriers, void** args) {
  running = name;
  arguments = args;
  gridDim = {blocks, 1, 1};
  blockDim = {width, height, 1};
  const int threads = width * height;
  const size_t stack = 1 << 16;
  std::vector<char> stacks(barriers ? threads * stack : 0);
  for (int block = 0; block < blocks; ++block) {
    blockIdx = {block, 0, 0};
    for (int thread = 0; thread < threads && !barriers; ++thread) {
      threadIdx = {thread % width, thread / width, 0};
      body();
    }
    if (!barriers) continue;
    fibers.assign(threads, ucontext_t{});
    done.assign(threads, 0);
    for (int thread = 0; thread < threads; ++thread) {
      getcontext(&fibers[thread]);
      fibers[thread].uc_stack.ss_sp = &stacks[thread * stack];
      fibers[thread].uc_stack.ss_size = stack;
      fibers[thread].uc_link = &scheduler;
      makecontext(&fibers[thread], (void (*)())fiber, 1, thread);
    }
    for (int left = threads; left > 0;) {
      left = 0;
      for (current = 0; current < threads; ++current) {
        if (done[current]) continue;
        threadIdx = {current % width, current / width, 0};
        swapcontext(&scheduler, &fibers[current]);
        left += !done[current];
      }
    }
  }
}
