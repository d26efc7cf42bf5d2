// PEFT adapter folders: what PEFT itself has written, in all its forms, and what is wrong with one.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "files/hdf5/file.h"
#include "files/hdf5/thread.h"
#include "hf/family.h"
#include "unit/hf/adapters.h"

namespace moesaic::hf {
namespace {

/// What golden.h5 says of a case (golden/adapters/README.md).
struct Oracle {
  std::vector<std::string> names;
  std::vector<float> scales;
  std::map<std::string, std::vector<float>> merged;

  static Oracle read(const std::string& family, const std::string& name) {
    return files::hdf5_run([&] {
      const auto file = files::Hdf5File::open(adapter_of(family, "golden.h5"));
      Oracle oracle;
      oracle.names =
          Json::parse(file.string_attribute(name, "names")).get<std::vector<std::string>>();
      oracle.scales = file.read_all<float>(name + "/scales");
      for (const std::string& tensor : file.members(name + "/merged")) {
        oracle.merged[tensor] = file.read_all<float>(name + "/merged/" + tensor);
      }
      return oracle;
    });
  }
};

// Every folder that PEFT has written: the weights it updates, their scales, and W + scale B A.
TEST(Peft, AsPeftComputes) {
  for (const auto& [family, name] : kAdapters) {
    HfFolder base = HfFolder::open(folder_of(family));
    PeftFolder adapter = open_adapter(adapter_of(family, name), base);
    const Oracle oracle = Oracle::read(family, name);
    std::vector<std::string> names = adapter.names();
    std::sort(names.begin(), names.end());
    ASSERT_EQ(names, oracle.names) << family << "/" << name;
    for (std::size_t i = 0; i < names.size(); ++i) {
      EXPECT_NEAR(adapter.scale(names[i]), static_cast<double>(oracle.scales[i]), 1e-6) << names[i];
    }
    EXPECT_GE(oracle.merged.size(), 1U);
    for (const auto& [tensor, values] : oracle.merged) {
      std::vector<float> merged = whole(base, tensor);
      const std::vector<float> update = update_of(adapter, base, tensor);
      for (std::size_t i = 0; i < merged.size(); ++i) {
        ASSERT_NEAR(merged[i] + update[i], values[i], 2e-6) << family << "/" << name << tensor;
      }
    }
    EXPECT_EQ(adapter.base_name(), "families/" + family);
    EXPECT_FALSE(adapter.has("model.embed_tokens.weight"));
  }
}

}  // namespace
}  // namespace moesaic::hf
