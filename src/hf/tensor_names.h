#pragma once

// Names of the files of a Hugging Face folder.
namespace moesaic::hf {

inline constexpr const char* kConfigName = "config.json";
inline constexpr const char* kGenerationName = "generation_config.json";
inline constexpr const char* kOneFile = "model.safetensors";
inline constexpr const char* kIndexName = "model.safetensors.index.json";

}  // namespace moesaic::hf
