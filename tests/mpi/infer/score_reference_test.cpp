// score.reference on any layout: the numbers are those of a naive computation in double, of the
// whole and by layer and expert.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "backend/transfer.h"
#include "base/error.h"
#include "checkpoint/load_weights.h"
#include "comm/mesh.h"
#include "files/hdf5/thread.h"
#include "mpi/infer/score_fixture.h"
#include "record/scores.h"

namespace moesaic::infer {
namespace {

using config::ReferenceDetail;

struct Layout {
  int tp = 1, pp = 1, ep = 1, expert_tp = 0;
  bool sequence = false;
};
std::vector<Layout> layouts(int ranks) {
  const std::map<int, std::vector<Layout>> all = {
      {1, {{}}},
      {2, {{}, {.ep = 2}, {.pp = 2}, {.tp = 2}, {.tp = 2, .expert_tp = 1, .sequence = true}}},
      {4, {{.tp = 2, .ep = 2, .sequence = true}, {.tp = 2, .pp = 2}, {.pp = 2, .ep = 2}}}};
  return all.at(ranks);
}
std::string text(const Layout& layout) {
  return fmt::format("tp {} pp {} ep {} expert_tp {}", layout.tp, layout.pp, layout.ep,
                     layout.expert_tp);
}

struct Compared {
  record::ScoreTotals totals;
  std::vector<float> logprob, reference_logprob, divergence;
  std::vector<std::uint8_t> agrees;
};

// What a model says of a token: log-probabilities of the whole vocabulary, [V].
using Row = std::vector<double>;

Row log_softmax(std::span<const float> logits) {
  double sum = 0.0;
  for (const float logit : logits) {
    sum += std::exp(static_cast<double>(logit));
  }
  Row row;
  for (const float logit : logits) {
    row.push_back(static_cast<double>(logit) - std::log(sum));
  }
  return row;
}

// Log-probabilities (V) of each target of the documents that are no longer than the model.
std::vector<Row> rows_of(engine::Instance& instance, const Documents& documents) {
  std::vector<Row> rows;
  for (const data::DocumentRecord& record : documents) {
    const data::MicroBatch batch = predicted(record);
    model::Context ctx = instance.context();
    ctx.batch.dropless = true;
    model::set_batch(ctx, batch);
    const Tensor hidden = instance.transformer.forward(ctx, 0, {}, nullptr);
    const std::vector<float> logits =
        to_host_f32(*instance.backend, instance.transformer.head().logits(ctx, hidden));
    const auto given = static_cast<std::size_t>(std::max<std::int64_t>(0, record.context - 1));
    for (std::size_t t = given; t < batch.target.size(); ++t) {
      rows.push_back(log_softmax(std::span(logits).subspan(t * kVocab, kVocab)));
    }
  }
  return rows;
}

double divergence(const Row& p, const Row& q) {
  double sum = 0.0;
  for (std::size_t v = 0; v < p.size(); ++v) {
    sum += std::exp(p[v]) * (p[v] - q[v]);
  }
  return sum;
}

Documents whole_documents() {
  const std::vector<Documents> all = shards();
  Documents documents = all[0];
  documents.insert(documents.end(), all[1].begin(), all[1].end());
  return documents;
}

// The checkpoint on one rank, with weights as run.quantize says where a name begins so.
std::unique_ptr<engine::Instance> load(const fs::path& checkpoint, const comm::Mesh& mesh,
                                       std::optional<DType> quantize = std::nullopt,
                                       const std::string& prefix = {}) {
  config::Config config = model_config();
  const bool all = prefix.empty();
  config.run.quantize = all ? quantize : std::nullopt;
  auto instance = std::make_unique<engine::Instance>(config, mesh, engine::Use::kManyRows);
  auto source = checkpoint::ModelSource::open(checkpoint);
  checkpoint::load_parameters(*instance, source, checkpoint::Load::kValues);
  for (model::Parameter& p : instance->parameters.all()) {
    const bool here = !all && p.spec.tensors.front().name.starts_with(prefix);
    if (here && p.spec.in_products && p.spec.packable) {
      const Shape& shape = p.spec.shape;
      const Tensor w = shape.rank() == 3 ? p.value : p.value.reshaped({1, shape[0], shape[1]});
      p.packed = instance->backend->pack(DType::kInt4, w, {});
    }
  }
  return instance;
}

class ScoreReferenceTest : public ScoreTest {
 protected:
  // On rank 0; empty elsewhere.
  Compared compare(const Layout& layout, const std::string& reference,
                   const std::function<void(config::Config&)>& edit = {}) {
    config::Parsed parsed = command(fmt::format("{}.h5", count_++));
    config::Config& config = parsed.config;
    config.parallel.tp = layout.tp;
    config.parallel.pp = layout.pp;
    config.parallel.ep = layout.ep;
    config.parallel.expert_tp = layout.expert_tp;
    config.parallel.sequence = layout.sequence;
    config.score.reference = reference;
    if (edit) {
      edit(config);
    }
    EXPECT_EQ(score(parsed, world), 0);
    Compared compared;
    if (world.is_root()) {
      const fs::path path = config.score.output;
      EXPECT_EQ(record::verify_scores(path), std::vector<std::string>{});
      files::hdf5_run([&] {
        compared.totals = record::read_scores_summary(path).value().totals;
        const files::Hdf5File file = files::Hdf5File::open(path);
        compared.logprob = file.read_all<float>("/tokens/logprob");
        compared.reference_logprob = file.read_all<float>("/tokens/reference_logprob");
        compared.divergence = file.read_all<float>("/tokens/divergence");
        compared.agrees = file.read_all<std::uint8_t>("/tokens/agrees");
      });
    }
    return compared;
  }
  std::string other(std::int64_t seed, const std::function<void(engine::Instance&)>& edit = {}) {
    const fs::path path = dir / fmt::format("other-{}", count_++);
    if (world.is_root()) {
      write_checkpoint(path, seed, edit);
    }
    world.barrier();
    return path.string();
  }

 private:
  int count_ = 0;
};

// Two models with nothing in common, token by token.
TEST_F(ScoreReferenceTest, EqualsANaiveComputationOnAnyLayout) {
  const std::string path = other(4);
  const comm::Mesh mesh = comm::Mesh::single();
  const std::vector<Row> p = rows_of(*load(path, mesh), whole_documents());
  const std::vector<Row> q = rows_of(*load(dir / "checkpoints", mesh), whole_documents());
  for (const Layout& layout : layouts(world.size())) {
    const Compared found = compare(layout, path);
    if (!world.is_root()) {
      continue;
    }
    SCOPED_TRACE(text(layout));
    ASSERT_GT(found.divergence.size(), p.size());
    double sum = 0.0, largest = 0.0;
    for (std::size_t t = 0; t < p.size(); ++t) {
      const double expected = divergence(p[t], q[t]);
      EXPECT_NEAR(found.divergence[t], expected, 1e-4 * expected) << "token " << t;
      const auto best = [](const Row& row) {
        return std::max_element(row.begin(), row.end()) - row.begin();
      };
      EXPECT_EQ(found.agrees[t], best(p[t]) == best(q[t]) ? 1 : 0) << "token " << t;
    }
    for (const float value : found.divergence) {
      sum += static_cast<double>(value);
      largest = std::max(largest, static_cast<double>(value));
    }
    EXPECT_NEAR(found.totals.reference.divergence, sum, 1e-6 * sum);
    EXPECT_EQ(found.totals.reference.largest, largest);
  }
}

// The reference's log-probabilities are what scoring it gives.
TEST_F(ScoreReferenceTest, BothAreScored) {
  const std::string path = other(4);
  const Compared one = compare({}, path);
  const Compared turned =
      compare({}, (dir / "checkpoints").string(), [&](config::Config& c) { c.model.path = path; });
  EXPECT_EQ(one.reference_logprob, turned.logprob);
  EXPECT_EQ(one.logprob, turned.reference_logprob);
  EXPECT_EQ(one.agrees, turned.agrees);
}

// Nothing is lost by nothing, and more by int4 than by int8; the same on any layout whose ranks
// hold whole rows of weights.
TEST_F(ScoreReferenceTest, OfFewBits) {
  for (const Layout& layout : layouts(world.size())) {
    const Compared same = compare(layout, "fp32");
    const auto few = [&](std::optional<DType> quantize) {
      return compare(layout, "fp32", [&](config::Config& c) { c.run.quantize = quantize; });
    };
    const Compared int8 = few(DType::kInt8), int4 = few(DType::kInt4);
    if (!world.is_root()) {
      continue;
    }
    SCOPED_TRACE(text(layout));
    EXPECT_EQ(same.totals.reference.divergence, 0.0);
    EXPECT_EQ(same.totals.reference.agreeing, same.totals.tokens);
    EXPECT_EQ(same.totals.reference.logprob, same.totals.logprob);
    EXPECT_GT(int8.totals.reference.divergence, 0.0);
    EXPECT_LT(int8.totals.reference.divergence, 0.1 * int4.totals.reference.divergence);
    EXPECT_NEAR(int4.totals.reference.logprob, same.totals.logprob,
                1e-5 * std::abs(same.totals.logprob));
    const comm::Mesh mesh = comm::Mesh::single();
    const std::vector<Row> p = rows_of(*load(dir / "checkpoints", mesh), whole_documents());
    const std::vector<Row> q =
        rows_of(*load(dir / "checkpoints", mesh, DType::kInt4), whole_documents());
    for (std::size_t t = 0; layout.tp == 1 && t < p.size(); ++t) {
      const double expected = divergence(p[t], q[t]);
      EXPECT_NEAR(int4.divergence[t], expected, 2e-3 * expected + 1e-9) << "token " << t;
    }
  }
}

// With one layer quantized at a time.
TEST_F(ScoreReferenceTest, ByLayer) {
  const comm::Mesh mesh = comm::Mesh::single();
  const Documents documents = whole_documents();
  std::vector<double> expected;
  const std::vector<Row> p = rows_of(*load(dir / "checkpoints", mesh), documents);
  for (const char* prefix : {"model.layers.0.", "model.layers.1.", "lm_head"}) {
    const std::vector<Row> q =
        rows_of(*load(dir / "checkpoints", mesh, DType::kInt4, prefix), documents);
    double sum = 0.0;
    for (std::size_t t = 0; t < p.size(); ++t) {
      sum += divergence(p[t], q[t]);
    }
    expected.push_back(sum / static_cast<double>(p.size()));
  }
  for (const Layout& layout : layouts(world.size())) {
    const auto edit = [&](config::Config& c) {
      c.run.quantize = DType::kInt4;
      c.score.reference_detail = ReferenceDetail::kLayers;
    };
    const Compared found = compare(layout, "fp32", edit);
    if (!world.is_root() || layout.tp > 1) {
      continue;
    }
    SCOPED_TRACE(text(layout));
    // Other documents are few beside the whole ones.
    const std::vector<double>& layers = found.totals.reference.details.layers;
    ASSERT_EQ(layers.size(), expected.size());
    for (std::size_t layer = 0; layer < layers.size(); ++layer) {
      EXPECT_NEAR(found.totals.per_token(layers[layer]), expected[layer], 0.02 * expected[layer]);
    }
  }
}

// One expert whose output is 1.1 times what it was errs by 0.01 of its square, the others not.
TEST_F(ScoreReferenceTest, ByExpert) {
  constexpr std::int64_t kChanged = 2, kExperts = 4;
  const std::string path = other(3, [](engine::Instance& instance) {
    for (model::Parameter& p : instance.parameters.all()) {
      if (p.spec.tensors.front().name.ends_with("experts.0.down_proj.weight")) {
        std::vector<float> values = to_host_f32(*instance.backend, p.value);
        const std::size_t each = values.size() / kExperts;
        for (std::size_t i = kChanged * each; i < (kChanged + 1) * each; ++i) {
          values[i] *= 1.1F;
        }
        instance.parameters.set(*instance.backend, p, values);
      }
    }
  });
  for (const Layout& layout : layouts(world.size())) {
    const Compared found = compare(layout, (dir / "checkpoints").string(), [&](config::Config& c) {
      c.model.path = path;
      c.score.reference_detail = ReferenceDetail::kExperts;
    });
    if (!world.is_root()) {
      continue;
    }
    SCOPED_TRACE(text(layout));
    const record::ReferenceDetails& details = found.totals.reference.details;
    EXPECT_EQ(details.expert_layers, std::vector<std::int64_t>{1});
    ASSERT_EQ(details.expert_tokens.size(), static_cast<std::size_t>(kExperts));
    double choices = 0.0;
    for (std::size_t e = 0; e < kExperts; ++e) {
      choices += details.expert_tokens[e];
      EXPECT_GT(details.expert_tokens[e], 0.0);
      EXPECT_NEAR(details.expert_errors[e] / details.expert_squares[e], e == kChanged ? 0.01 : 0.0,
                  1e-5)
          << "expert " << e;
    }
    EXPECT_EQ(std::fmod(choices, model_config().model.top_k), 0.0);
    EXPECT_GE(choices, static_cast<double>(found.totals.tokens * model_config().model.top_k));
    EXPECT_GT(found.totals.reference.divergence, 0.0);
  }
}

// What cannot be compared is refused on every rank, with what to use instead.
TEST_F(ScoreReferenceTest, Refusals) {
  const auto message = [&](const std::function<void(config::Config&)>& edit) {
    config::Parsed parsed = command("refused.h5");
    edit(parsed.config);
    try {
      score(parsed, world);
    } catch (const comm::AgreedError& error) {
      EXPECT_EQ(error.code(), Exit::kUsage);
      return std::string(error.what());
    }
    return std::string("was not refused");
  };
  EXPECT_NE(message([](config::Config& c) {
              c.score.reference_detail = ReferenceDetail::kLayers;
            }).find("no effect without score.reference"),
            std::string::npos);
  EXPECT_NE(message([](config::Config& c) {
              c.score.reference = "bf16";
              c.score.reference_detail = ReferenceDetail::kBoth;
            }).find("set run.quantize"),
            std::string::npos);
}

}  // namespace
}  // namespace moesaic::infer
