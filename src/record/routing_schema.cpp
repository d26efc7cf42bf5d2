#include "record/routing_schema.h"

#include <numeric>

#include "files/columns.h"
#include "files/format_version.h"
#include "record/trace_schema.h"

namespace moesaic::record {
using files::describe;

namespace {

// The axis of the tokens. It has no values and takes no space; its name is what netCDF calls such.
constexpr const char* kRow = "/row";
constexpr const char* kRowName = "This is a netCDF dimension but not a netCDF variable.         0";

/// Whole steps, so that few chunks are to be found, but not so many bytes that HDF5 refuses them.
std::int64_t chunk_rows(const RoutingAxes& axes) {
  constexpr std::int64_t kRows = 4096, kMostBytes = std::int64_t{1} << 30U;
  const std::int64_t whole = (kRows + axes.step_rows - 1) / axes.step_rows * axes.step_rows;
  return std::min(whole, kMostBytes / std::max<std::int64_t>(8, 4 * axes.choices));
}

template <class T>
void create_by_layer(files::Hdf5File& file, RoutingColumnIndex column, const RoutingAxes& axes,
                     const std::string& long_name) {
  const char* const name = kRoutingColumns[column].name;
  file.create_dataset<T>(
      name, {0, std::ssize(axes.moe_layers), axes.choices},
      {.chunk = {chunk_rows(axes), 1, axes.choices}, .unlimited = true, .early = true});
  describe(file, name, "1", long_name);
  file.attach_scale(name, kRow, 0);
  file.attach_scale(name, "/layer", 1);
  file.attach_scale(name, "/choice", 2);
}

template <class T>
void create_of_token(files::Hdf5File& file, RoutingColumnIndex column, const RoutingAxes& axes,
                     const std::string& long_name) {
  const char* const name = kRoutingColumns[column].name;
  file.create_dataset<T>(name, {0},
                         {.chunk = {chunk_rows(axes)}, .unlimited = true, .early = true});
  describe(file, name, "1", long_name);
  file.attach_scale(name, kRow, 0);
}

void create_steps(files::Hdf5File& file) {
  const files::Hdf5File::Layout growing{.chunk = {1024}, .unlimited = true};
  file.create_dataset<std::int64_t>("/steps/step", {0}, growing);
  file.create_dataset<std::int64_t>("/steps/offset", {1}, growing);
  file.write<std::int64_t>("/steps/offset", {0}, {1}, std::vector<std::int64_t>{0});
  file.make_scale("/steps/step", "step");
  file.make_scale("/steps/offset", "offset");
  describe(file, "/steps/step", "1", "training step");
  describe(file, "/steps/offset", "1", "first row of each step, and the end of the last one");
}

void write_scales(files::Hdf5File& file, const RoutingAxes& axes) {
  file.write_all<std::int64_t>("/layer", {std::ssize(axes.moe_layers)}, axes.moe_layers);
  file.set_attribute("/layer", "layer_index", axes.moe_layers);
  std::vector<std::int64_t> choices(static_cast<std::size_t>(axes.choices));
  std::iota(choices.begin(), choices.end(), 1);
  file.write_all<std::int64_t>("/choice", {axes.choices}, choices);
  write_names(file, "/task", axes.tasks);
  file.write_strings("/corpus", axes.corpora);
  describe(file, "/layer", "1", "index in the model of each MoE layer");
  describe(file, "/choice", "1", "choice of a token, best first");
  describe(file, "/task", "1", "task of a token");
  describe(file, "/corpus", "1", "corpus");
  file.create_dataset<std::uint8_t>(kRow, {0}, {.chunk = {1 << 20}, .unlimited = true});
  file.make_scale(kRow, kRowName);
  for (const char* const axis : {"layer", "choice", "task", "corpus"}) {
    file.make_scale("/" + std::string(axis), axis);
  }
}

}  // namespace

void write_routing_attributes(files::Hdf5File& file, const RoutingAxes& axes) {
  for (const auto& [name, value] : axes.attributes) {
    file.set_attribute("/", name, value);
  }
}

void write_routing_skeleton(files::Hdf5File& file, const RoutingAxes& axes) {
  file.set_attribute("/", "Conventions", std::string("CF-1.8"));
  files::write_format(file, kRoutingSchema, kRoutingVersion);
  file.set_attribute("/", "experts", axes.experts);
  write_routing_attributes(file, axes);
  write_scales(file, axes);
  create_steps(file);
  create_by_layer<std::int16_t>(file, kChosen, axes, "expert that the router chose, -1 none");
  create_by_layer<float>(file, kWeight, axes,
                         "weight of the expert that computed it, else of the chosen one");
  create_by_layer<std::uint8_t>(file, kFate, axes,
                                "0 kept, 1 re-routed to the next best, 2 to a spare, 3 dropped");
  create_by_layer<std::int16_t>(file, kTarget, axes, "expert that computed it, -1 none");
  create_of_token<std::uint16_t>(file, kCorpus, axes, "corpus of the token");
  create_of_token<std::int64_t>(file, kDocument, axes, "number of its document in the corpus");
  create_of_token<std::int64_t>(file, kPosition, axes, "place in its document");
  create_of_token<std::int32_t>(file, kToken, axes, "token");
  create_of_token<std::uint8_t>(file, kTask, axes, "task of the token");
}

void resize_routing(files::Hdf5File& file, std::int64_t rows) {
  for (const RoutingColumn& column : kRoutingColumns) {
    files::Extents extents = file.extents(column.name);
    extents[0] = rows;
    file.extend(column.name, extents);
  }
  file.extend(kRow, {rows});
}

RoutingSteps read_routing_steps(const files::Hdf5File& file) {
  RoutingSteps steps{file.read_all<std::int64_t>("/steps/step"),
                     file.read_all<std::int64_t>("/steps/offset")};
  const auto begun = std::find(steps.step.begin(), steps.step.end(), 0);
  steps.step.erase(begun, steps.step.end());
  if (steps.offset.size() > steps.step.size() + 1) {
    steps.offset.resize(steps.step.size() + 1);
  }
  return steps;
}

}  // namespace moesaic::record
