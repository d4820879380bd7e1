/* tinygptv: the engine without Python. Token ids and image embeddings in, token ids out.
 *
 *   tgv_engine* engine;
 *   tgv_options options = tgv_default_options();
 *   if (tgv_load("model.tgvp", &options, &engine)) return fail(tgv_last_error());
 *   tgv_request request = tgv_default_request();
 *   request.ids = ids; request.id_count = n; request.max_new_tokens = 64;
 *   int64_t id;
 *   tgv_submit(engine, &request, &id);
 *   tgv_event event;
 *   while (!tgv_poll(engine, id, 1.0, &event) && event.kind != TGV_DONE) ...
 *   tgv_close(engine);
 *
 * "model.tgvp" is what `tinygptv pack MODEL --out model.tgvp` writes: one file, read straight into
 * memory. The ids of a prompt come from the model's tokenizer; image embeddings from
 * ImageState.save (a safetensors file with one float32 tensor [NQ, C]) or from a vision tower of
 * one's own.
 *
 * Every function may be called from any thread. None throws, aborts or prints: a code other than
 * TGV_OK means nothing was done, and tgv_last_error() says what was wrong, in one sentence.
 */
#ifndef TINYGPTV_ENGINE_H_
#define TINYGPTV_ENGINE_H_

#include <stdint.h>

#if defined(_WIN32)
#define TGV_API
#else
#define TGV_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* Grows when a struct or a meaning changes; tgv_version() tells what the library was built with. */
#define TGV_VERSION 1

typedef struct tgv_engine tgv_engine;

typedef enum {
  TGV_OK = 0,
  TGV_INVALID = 1,     /* an argument, or a file, is not what it should be */
  TGV_CAPACITY = 2,    /* no room: the queue is full, or the request can never fit */
  TGV_UNSUPPORTED = 3, /* not on this machine */
  TGV_SYSTEM = 4,      /* the operating system refused: memory, a file */
  TGV_CLOSED = 5,      /* the engine was closed */
  TGV_INTERNAL = 6
} tgv_status;

typedef enum { TGV_KV_INT8 = 0, TGV_KV_F16 = 1, TGV_KV_BF16 = 2, TGV_KV_F32 = 3 } tgv_kv_kind;

typedef struct {
  int32_t threads;       /* 0: the physical cores this process may use */
  tgv_kv_kind kv_kind;   /* how keys and values are kept */
  int64_t kv_tokens;     /* positions of all sequences together; memory is taken when used */
  int64_t max_sequences; /* in one step */
  int32_t map_file;      /* 1: share the system's copy of the file instead of reading it */
} tgv_options;

typedef struct {
  const int32_t* ids; /* [id_count] token ids; -1 stands for the next row of embeddings */
  int64_t id_count;
  const float* embeddings; /* [embedding_rows, embedding_width]; copied */
  int64_t embedding_rows;
  int64_t embedding_width;

  int64_t max_new_tokens; /* >= 1 */
  const int32_t* end_ids; /* [end_id_count] ids that end the answer */
  int64_t end_id_count;
  double temperature;        /* 0: greedy */
  int64_t top_k;             /* 0: all */
  double top_p;              /* 1: all */
  double min_p;              /* 0: all */
  double repetition_penalty; /* 1: none */
  uint64_t seed;
  double deadline_seconds; /* from now; 0: none. What there is by then is the answer. */
  int32_t speculate;       /* 1: guess from the prompt; the same ids, sooner. Greedy only. */
} tgv_request;

typedef enum {
  TGV_NONE = 0,  /* nothing within the time given */
  TGV_TOKEN = 1, /* id, logprob */
  TGV_END = 2,   /* reason; message if it is TGV_ERROR */
  TGV_DONE = 3   /* the last one: times and counts; the request is forgotten */
} tgv_event_kind;

typedef enum {
  TGV_STOP = 0,
  TGV_LENGTH = 1,
  TGV_DEADLINE = 2,
  TGV_CANCELLED = 3,
  TGV_ERROR = 4
} tgv_reason;

typedef struct {
  tgv_event_kind kind;
  int32_t id;
  float logprob; /* of the unprocessed logits */
  tgv_reason reason;
  char message[256];
  double queue_ms, prefill_ms, decode_ms, first_token_ms, total_ms;
  int64_t prompt_tokens, cached_tokens, generated_tokens;
} tgv_event;

TGV_API int32_t tgv_version(void);
TGV_API tgv_options tgv_default_options(void);
TGV_API tgv_request tgv_default_request(void);

/* What the last call of this thread that did not return TGV_OK had to say; never null. */
TGV_API const char* tgv_last_error(void);

/* Reads and checks the file, starts the engine. options may be null. */
TGV_API tgv_status tgv_load(const char* path, const tgv_options* options, tgv_engine** engine);

/* Width C of the model's embeddings, and its vocabulary. */
TGV_API tgv_status tgv_sizes(const tgv_engine* engine, int64_t* width, int64_t* vocab);

TGV_API tgv_status tgv_submit(tgv_engine* engine, const tgv_request* request, int64_t* id);

/* The next event of a request; sleeps until there is one, at most timeout_seconds (TGV_NONE then).
 */
TGV_API tgv_status tgv_poll(tgv_engine* engine, int64_t id, double timeout_seconds,
                            tgv_event* event);

/* Ends the request within the token it is at. Twice, or after its end: nothing happens. */
TGV_API tgv_status tgv_cancel(tgv_engine* engine, int64_t id);

/* Ends everything and frees the engine. No other call may use it from here on. Null: nothing. */
TGV_API void tgv_close(tgv_engine* engine);

#ifdef __cplusplus
}
#endif

#endif
