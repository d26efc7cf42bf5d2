#pragma once

#include <array>
#include <map>
#include <string>
#include <vector>

#include "comm/mesh.h"
#include "config/config.h"
#include "engine/instance.h"

// The layouts that tests of parallel training go through, and models that can be split in each way.
namespace moesaic::testing {

constexpr std::int64_t kTasks = 3;  // "none" and two more

/// Five layers, the first two without experts, so that a stage of four has no MoE layer; a
/// vocabulary and widths that no number of ranks divides.
void wide(config::Config& c);
void wide_tied(config::Config& c);
/// Overflow goes to spares; experts are only updated after 30 tokens, each in its own steps.
void spares(config::Config& c);
/// A gate of two layers; overflow goes to the next best expert.
void moves(config::Config& c);

/// Latent attention; groups of experts.
void latent(config::Config& c);
/// Norms over all heads, with one key head for all ranks of tp; clamped, with biases; a gate on the
/// shared expert; every second layer has experts.
void normed(config::Config& c);
/// Sinks, windows, norms of heads, and biases everywhere, those of experts deferred.
void sinking(config::Config& c);

/// Frozen in different ways: all below the last blocks, so that backward ends in the middle; single
/// tensors of products that hold several, single experts and biases; one product of latent
/// attention, and another at a tenth of the learning rate.
void upper(config::Config& c);
void pieces(config::Config& c);
void latent_pieces(config::Config& c);

/// Adapters beside all products, the gate's too: with key heads that are copied over tp, and with
/// latent attention, where the head and a norm are trained as well.
void adapted(config::Config& c);
void adapted_latent(config::Config& c);

/// A model, its rows, and how near training on any layout must come to one rank.
struct LayoutCase {
  const char* name;
  const char* golden;                         // its config and rows
  std::size_t rows = 3;                       // rows 1 and 2 leave ranks without any token
  bool starve = false;                        // the bias keeps every token away from expert 0
  void (*change)(config::Config&) = nullptr;  // other sizes; then random parameters
  bool short_rows = false;                    // of 1 to 3 tokens: fewer than ranks of tp
  bool bf16 = false;
  // Relative, of gradients and of losses and norms. In bf16 each term of a sum over tp is rounded,
  // and so are P and dS of attention where the processor has bf16 dot products.
  double gradient_bound() const { return bf16 ? 2e-2 : 1e-5; }
  double loss_bound() const { return bf16 ? 1e-2 : 1e-5; }
};

std::vector<LayoutCase> layout_cases();

/// Everything about a layout but dp, which follows from the number of ranks.
std::string text_of(const config::Config& c);

/// All degrees that the ranks and the model allow; the number of a layout picks its other options,
/// so that these meet each other in many ways.
std::vector<config::Config> layouts(const config::Config& base, int ranks);

/// Many ranks on few cores are slow: of their layouts only some, spread over all degrees.
std::vector<config::Config> some_of(const std::vector<config::Config>& all, std::size_t most);

/// What training makes of a case.
struct Outcome {
  std::vector<double> losses, norms;                    // of each step
  std::map<std::string, std::vector<float>> gradients;  // of the first step; of one rank alone
  std::map<std::string, double> distances;              // to these, of the rows that a rank owns
  std::vector<double> counts;                           // of the first step, over all ranks
};

/// |here - there| / |there| of the rows of gradients that this rank owns, by public name.
std::map<std::string, double> distances(engine::Instance& instance,
                                        const std::map<std::string, std::vector<float>>& expected);

/// Gives all ranks what the first one has. Collective over the world.
void broadcast(Outcome& outcome);

/// The meshes of layouts, each made once: all cases of a process set share them. Collective over
/// the world.
class Meshes {
 public:
  comm::Mesh& of(const config::Config& config);
  void close();

 private:
  std::map<std::array<std::int64_t, 5>, comm::Mesh> made_;
};

}  // namespace moesaic::testing
