// Token ids and a saved picture in, token ids out: the engine in a C++ program without Python.
//
//   decode model.tgvp --ids 50256,318,-1 [--image picture.tgvi] [--max-new-tokens 64] [--end 50256]
//          [--deadline-ms 500] [--threads 2]
//
// model.tgvp    tinygptv pack MODEL --out model.tgvp
// picture.tgvi  ImageState.save: the picture's embeddings; each -1 in --ids is one of its rows, and
//               a single "image" in the list stands for all of them
//
// Prints the generated ids, one a line as they come; times and the reason of the end on stderr.
// Ctrl-C cancels the request and still prints how it ended. Exit code 2: bad input.
#include <tinygptv/engine.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

volatile std::sig_atomic_t interrupted = 0;

struct Arguments {
  std::string model, image, ids;
  int64_t max_new_tokens = 64;
  std::vector<int32_t> end_ids;
  double deadline_seconds = 0;
  int32_t threads = 0;
};

[[noreturn]] void refuse(const std::string& why) { throw std::invalid_argument(why); }

int64_t number(const std::string& text, const char* what, int64_t least, int64_t most) {
  char* end = nullptr;
  errno = 0;
  const long long value = std::strtoll(text.c_str(), &end, 10);
  if (text.empty() || *end || errno || value < least || value > most) {
    refuse(std::string(what) + " is '" + text + "', expected a whole number in " +
           std::to_string(least) + ".." + std::to_string(most));
  }
  return value;
}

std::vector<std::string> split(const std::string& list) {
  std::vector<std::string> out;
  size_t begin = 0;
  while (begin <= list.size()) {
    const size_t comma = std::min(list.find(',', begin), list.size());
    out.push_back(list.substr(begin, comma - begin));
    begin = comma + 1;
  }
  return out;
}

Arguments parse(int count, char** values) {
  if (count < 2)
    refuse(
        "usage: decode MODEL.tgvp --ids 1,2,image,3 [--image FILE.tgvi] [--max-new-tokens N] "
        "[--end ID,...] [--deadline-ms MS] [--threads N]");
  Arguments out;
  out.model = values[1];
  for (int i = 2; i < count; i += 2) {
    const std::string name = values[i];
    if (i + 1 == count) refuse(name + " has no value");
    const std::string value = values[i + 1];
    if (name == "--ids") {
      out.ids = value;
    } else if (name == "--image") {
      out.image = value;
    } else if (name == "--max-new-tokens") {
      out.max_new_tokens = number(value, "--max-new-tokens", 1, 1 << 20);
    } else if (name == "--end") {
      for (const std::string& id : split(value)) {
        out.end_ids.push_back(static_cast<int32_t>(number(id, "--end", 0, INT32_MAX)));
      }
    } else if (name == "--deadline-ms") {
      out.deadline_seconds = static_cast<double>(number(value, "--deadline-ms", 1, 1 << 30)) / 1e3;
    } else if (name == "--threads") {
      out.threads = static_cast<int32_t>(number(value, "--threads", 0, 1024));
    } else {
      refuse("there is no option " + name);
    }
  }
  if (out.ids.empty()) refuse("--ids is missing: the prompt's token ids, divided by commas");
  return out;
}

// The rows of a safetensors file that holds one float32 tensor "embeddings" [rows, width]: eight
// bytes of header length, a json header, the numbers. Only what ImageState.save writes is
// understood.
std::vector<float> read_embeddings(const std::string& path, int64_t width) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) refuse(path + " cannot be opened");
  const int64_t size = static_cast<int64_t>(file.tellg());
  uint64_t header_bytes = 0;
  file.seekg(0);
  file.read(reinterpret_cast<char*>(&header_bytes), 8);
  if (!file || size < 8 || header_bytes > static_cast<uint64_t>(size - 8) ||
      header_bytes > (1u << 20)) {
    refuse(path + " is not a saved image state");
  }
  std::string header(header_bytes, ' ');
  file.read(header.data(), static_cast<std::streamsize>(header_bytes));
  const bool known = header.find("\"tinygptv_image_state\"") != std::string::npos &&
                     header.find("\"embeddings\"") != std::string::npos &&
                     header.find("\"F32\"") != std::string::npos &&
                     header.find("\"I8\"") == std::string::npos &&
                     header.find("\"keys_values\"") == std::string::npos;
  const int64_t bytes = size - 8 - static_cast<int64_t>(header_bytes);
  if (!file || !known) refuse(path + " is not a saved image state of float32 without pages");
  if (bytes <= 0 || bytes % (4 * width)) {
    refuse(path + " holds " + std::to_string(bytes) + " bytes of numbers, expected rows of " +
           std::to_string(width) + " float32");
  }
  std::vector<float> out(static_cast<size_t>(bytes / 4));
  file.read(reinterpret_cast<char*>(out.data()), bytes);
  if (!file) refuse(path + " ends too early");
  return out;
}

std::vector<int32_t> prompt_ids(const std::string& list, int64_t rows) {
  std::vector<int32_t> out;
  for (const std::string& item : split(list)) {
    if (item == "image") {
      out.insert(out.end(), static_cast<size_t>(rows), -1);
    } else {
      out.push_back(static_cast<int32_t>(number(item, "--ids", -1, INT32_MAX)));
    }
  }
  return out;
}

void check(tgv_status status) {
  if (status == TGV_INVALID || status == TGV_CAPACITY) refuse(tgv_last_error());
  if (status != TGV_OK) throw std::runtime_error(tgv_last_error());
}

struct Engine {
  tgv_engine* handle = nullptr;
  ~Engine() { tgv_close(handle); }
};

// Prints until the last event; 0 if the answer came to an end.
int follow(tgv_engine* engine, int64_t id) {
  static const char* const reasons[] = {"stop", "length", "deadline", "cancelled", "error"};
  tgv_event event;
  int code = 0;
  do {
    check(tgv_poll(engine, id, 0.1, &event));
    if (interrupted) check(tgv_cancel(engine, id));
    if (event.kind == TGV_TOKEN) {
      std::printf("%d\n", event.id);
      std::fflush(stdout);
    } else if (event.kind == TGV_END) {
      std::fprintf(stderr, "end: %s %s\n", reasons[event.reason], event.message);
      code = event.reason == TGV_ERROR ? 1 : 0;
    }
  } while (event.kind != TGV_DONE);
  std::fprintf(stderr, "%lld prompt tokens in %.1f ms, %lld tokens in %.1f ms\n",
               static_cast<long long>(event.prompt_tokens), event.prefill_ms,
               static_cast<long long>(event.generated_tokens), event.decode_ms);
  return code;
}

int run(const Arguments& arguments) {
  Engine engine;
  tgv_options options = tgv_default_options();
  options.threads = arguments.threads;
  check(tgv_load(arguments.model.c_str(), &options, &engine.handle));
  int64_t width = 0;
  check(tgv_sizes(engine.handle, &width, nullptr));

  std::vector<float> embeddings;
  if (!arguments.image.empty()) embeddings = read_embeddings(arguments.image, width);
  const int64_t rows = static_cast<int64_t>(embeddings.size()) / width;
  const std::vector<int32_t> ids = prompt_ids(arguments.ids, rows);

  tgv_request request = tgv_default_request();
  request.ids = ids.data();
  request.id_count = static_cast<int64_t>(ids.size());
  request.embeddings = embeddings.data();
  request.embedding_rows = rows;
  request.embedding_width = width;
  request.max_new_tokens = arguments.max_new_tokens;
  request.end_ids = arguments.end_ids.data();
  request.end_id_count = static_cast<int64_t>(arguments.end_ids.size());
  request.deadline_seconds = arguments.deadline_seconds;
  int64_t id = 0;
  check(tgv_submit(engine.handle, &request, &id));
  return follow(engine.handle, id);
}

}  // namespace

int main(int count, char** values) {
  std::signal(SIGINT, [](int) { interrupted = 1; });
  try {
    return run(parse(count, values));
  } catch (const std::invalid_argument& error) {
    std::fprintf(stderr, "decode: %s\n", error.what());
    return 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "decode: %s\n", error.what());
    return 1;
  }
}
