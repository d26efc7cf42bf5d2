#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>

#include "base/io_error.h"
#include "base/json.h"
#include "base/log.h"
#include "base/text.h"
#include "checkpoint/block.h"
#include "checkpoint/checkpoint.h"
#include "checkpoint/manifest.h"
#include "files/durable.h"
#include "files/hdf5/thread.h"

namespace moesaic::checkpoint {
namespace {

namespace fs = std::filesystem;

}  // namespace

BlockValues given(std::span<const float> values) {
  return [values] { return std::vector<float>(values.begin(), values.end()); };
}

namespace {

/// Asks for the room of a whole part before HDF5 writes it, which does not take a full disk well.
/// Where the file system cannot reserve, the writes themselves will tell.
void reserve(const fs::path& file, std::int64_t bytes) {
  rlimit limit{};
  ::getrlimit(RLIMIT_FSIZE, &limit);
  int error = limit.rlim_cur < static_cast<rlim_t>(bytes) ? EFBIG : 0;
  const int descriptor = ::open(file.c_str(), O_WRONLY | O_CLOEXEC);
  if (descriptor >= 0) {
    const int status = ::fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, bytes);
    if (status != 0 && (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)) {
      error = errno;
    }
    ::close(descriptor);
  }
  if (error != 0) {
    files::fail_write(file, fmt::format("reserve {} bytes", bytes), error);
  }
}

/// This rank's blocks in one file; empty blocks are left out.
struct PartWriter {
  fs::path folder;
  std::string name;
  std::vector<const BlockToSave*> blocks;

  PartWriter(fs::path into, int rank, const std::vector<BlockToSave>& all)
      : folder(std::move(into)), name(fmt::format("part-{:05}.h5", rank)) {
    for (const BlockToSave& block : all) {
      if (volume(block.extent) > 0) {
        blocks.push_back(&block);
      }
    }
  }

  std::int64_t bytes() const {
    constexpr std::int64_t kHeader = 1024;  // of a dataset, about
    std::int64_t sum = 8 * kHeader;
    for (const BlockToSave* block : blocks) {
      sum += static_cast<std::int64_t>(bytes_of(block->type, block->extent)) + kHeader;
    }
    return sum;
  }

  /// Returns the SHA-256 of what was written.
  static std::string write(const BlockToSave& block, const std::string& dataset,
                           files::Hdf5File& file) {
    BlockContent content;
    content.type = block.type;
    const bool quantized = is_quantized(block.type);
    if (quantized) {
      content.rows = block.rows();
    } else {
      content.values = block.values();
    }
    const bool fits =
        quantized ? content.rows.type == block.type &&
                        block.extent == files::Extents{content.rows.rows, content.rows.columns}
                  : std::ssize(content.values) == volume(block.extent);
    require(fits, fmt::format("checkpoint: {} has {} values for a block of [{}]", block.name,
                              quantized ? content.rows.codes.size() : content.values.size(),
                              join(block.extent, ", ")));
    try {
      return write_block(file, dataset, block.extent, content);
    } catch (const Error& error) {
      if (error.code() != Exit::kBadNumbers) {
        throw;
      }
      throw Error(Exit::kBadNumbers, fmt::format("tensor {}: {}", block.name, error.what()));
    }
  }

  /// Writes the part and returns its share of the manifest.
  Json write(const std::function<void()>& on_progress) const {
    Json index{{"blocks", Json::array()}};
    if (blocks.empty()) {
      return index;
    }
    const fs::path path = folder / name;
    files::Hdf5File file = files::Hdf5File::create(path);
    reserve(path, bytes());
    for (const BlockToSave* block : blocks) {
      StoredBlock stored{name,
                         fmt::format("/{}[{}]", block->name, join(block->offset, ",")),
                         block->offset,
                         block->extent,
                         "",
                         block->type};
      if (on_progress) {
        on_progress();
      }
      stored.sha256 = write(*block, stored.dataset, file);
      Json entry = block_to_json(stored);
      entry["name"] = block->name;
      entry["shape"] = block->shape;
      index["blocks"].push_back(std::move(entry));
    }
    file.close();
    const std::uintmax_t size = fs::file_size(path);
    fs::resize_file(path, size);  // gives back what was reserved beyond the end
    files::sync(path);
    index["part"] = name;
    index["bytes"] = size;
    return index;
  }
};

void add_part(Manifest& manifest, const Json& index) {
  if (!index.contains("part")) {
    return;
  }
  manifest.parts[index.at("part").get<std::string>()] = {index.at("bytes").get<std::int64_t>(), ""};
  for (const Json& entry : index.at("blocks")) {
    const auto name = entry.at("name").get<std::string>();
    const auto shape = entry.at("shape").get<files::Extents>();
    StoredTensor& tensor = manifest.tensors[name];
    require(tensor.blocks.empty() || tensor.shape == shape,
            fmt::format("checkpoint: ranks name different shapes of {}", name));
    tensor.shape = shape;
    tensor.blocks.push_back(block_from_json(entry));
  }
}

void check_coverage(const Manifest& manifest) {
  for (const auto& [name, tensor] : manifest.tensors) {
    const std::string problem = coverage_problem(name, tensor);
    require(problem.empty(), "checkpoint: " + problem);
  }
}

std::map<std::string, StoredFile> copy_files(const SaveRequest& request, const fs::path& folder) {
  std::vector<fs::path> made;
  for (const fs::path& file : request.copy) {
    made.push_back(folder / file.filename());
    fs::copy_file(file, made.back(), fs::copy_options::overwrite_existing);
    files::sync(made.back());
  }
  for (const auto& [name, text] : request.texts) {
    made.push_back(folder / name);
    files::write_whole(made.back(), text);
  }
  std::map<std::string, StoredFile> files;
  for (const fs::path& file : made) {
    files[file.filename().string()] = {static_cast<std::int64_t>(fs::file_size(file)),
                                       files::sha256_of_file(file)};
  }
  return files;
}

/// What file system calls throw, as one of our errors.
void with_io_errors(const std::function<void()>& step) {
  try {
    step();
  } catch (const fs::filesystem_error& error) {
    throw WriteError(error.code().value(), to_error(error).what());
  }
}

/// Puts the finished folder in its place. One that is there already gives way: it is exchanged for
/// the new one where the file system can, so that there is always one of the two.
void put_in_place(const fs::path& temporary, const fs::path& final) {
  files::sync(temporary);
  fs::path older = final;
  older += kReplaced;
  fs::remove_all(older);
  if (!fs::exists(final)) {
    fs::rename(temporary, final);
  } else if (::renameat2(AT_FDCWD, temporary.c_str(), AT_FDCWD, final.c_str(), RENAME_EXCHANGE) ==
             0) {
    older = temporary;
  } else {
    fs::rename(final, older);
    try {
      fs::rename(temporary, final);
    } catch (const fs::filesystem_error&) {
      fs::rename(older, final);
      throw;
    }
  }
  files::sync(final.parent_path());
  fs::remove_all(older);
}

// For people and scripts: the checkpoint is complete without it.
void write_latest(const fs::path& dir, const fs::path& final) {
  try {
    files::write_whole(dir / "latest", final.filename().string() + "\n");
  } catch (const Error& error) {
    log::warn(error.what());
  }
}

void start(const fs::path& temporary, std::int64_t needed) {
  fs::create_directories(temporary.parent_path());
  fs::remove_all(temporary);
  const auto free = static_cast<std::int64_t>(fs::space(temporary.parent_path()).available);
  if (free < needed) {
    throw WriteError(
        ENOSPC, fmt::format("no room for the checkpoint in {}", temporary.parent_path().string()));
  }
  fs::create_directory(temporary);
}

/// Rank 0's view of why a save failed, and what helps.
std::string explain(const std::string& what, const fs::path& dir, std::int64_t needed) {
  std::error_code error;
  const auto free = fs::space(dir, error).available;
  const std::string room = error ? "" : fmt::format(" ({} bytes needed, {} free)", needed, free);
  return fmt::format("checkpoint not saved: {}{}; older ones are untouched", what, room);
}

}  // namespace

fs::path save_checkpoint(const SaveRequest& request, const std::vector<BlockToSave>& blocks,
                         const comm::Communicator& world) {
  fs::path final = checkpoint_folder(request.dir, request.step);
  fs::path temporary = final;
  temporary += kTemporary;
  std::int64_t needed = 0;
  try {
    std::optional<PartWriter> part;
    world.together("checkpoint", [&] { part.emplace(temporary, world.rank(), blocks); });
    needed = world.all_reduce(part->bytes(), comm::Reduce::kSum);
    Manifest manifest;
    world.together("checkpoint", [&] {
      if (world.is_root()) {
        with_io_errors([&] { start(temporary, needed); });
        with_io_errors([&] { manifest.files = copy_files(request, temporary); });
      }
    });
    Json index;
    world.together("checkpoint", [&] {
      with_io_errors(
          [&] { index = files::hdf5_run([&] { return part->write(request.on_progress); }); });
    });
    const std::vector<std::string> indexes = world.gather(index.dump(), 0);
    world.together("checkpoint", [&] {
      if (world.is_root()) {
        for (const std::string& one : indexes) {
          add_part(manifest, Json::parse(one));
        }
        check_coverage(manifest);
        manifest.step = request.step;
        manifest.state = std::make_shared<const Json>(request.state);
        with_io_errors([&] {
          files::write_whole(temporary / kManifestName, to_text(manifest));
          put_in_place(temporary, final);
        });
        write_latest(request.dir, final);
      }
    });
  } catch (const comm::AgreedError& error) {
    std::string message;
    if (world.is_root()) {
      message = explain(error.what(), request.dir, needed);
      std::error_code ignored;
      fs::remove_all(temporary, ignored);
    }
    world.broadcast(message, 0);
    throw comm::AgreedError(error.code(), message);
  }
  return final;
}

}  // namespace moesaic::checkpoint
