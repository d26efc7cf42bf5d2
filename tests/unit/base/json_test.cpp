// Protects: values of JSON are read, changed and written without a loss, and every fault is told.
#include "base/json.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <functional>
#include <limits>
#include <string>
#include <vector>

namespace moesaic {
namespace {

std::string problem_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const JsonError& error) {
    return error.what();
  }
  return "none";
}

// What is parsed and written again is the same text, with the fields ordered by name.
TEST(Json, TextComesBack) {
  for (const char* const text :
       {"null", "true", "0", "-7", "9223372036854775807", "18446744073709551615", "0.1", "1e+300",
        R"("\"\\\n\u0001é")", "[]", "{}", R"([1,[2,[]],{"a":null}])",
        R"({"a":{"b":[true,false]},"c":-1.5})"}) {
    EXPECT_EQ(Json::parse(text).dump(), text);
    EXPECT_EQ(Json::from_cbor(Json::parse(text).to_cbor()).dump(), text);
  }
  EXPECT_EQ(Json::parse(R"({"b":1,"a":[2]})").dump(1), "{\n \"a\": [\n  2\n ],\n \"b\": 1\n}");
  EXPECT_EQ(Json::parse(R"({"a":1,"a":2})").dump(), R"({"a":2})");
}

TEST(Json, BracesMakeObjectsOrArrays) {
  const Json object{{"step", 3}, {"loss", 2.5}, {"tasks", std::vector<std::string>{"a", "b"}}};
  EXPECT_EQ(object.dump(), R"({"loss":2.5,"step":3,"tasks":["a","b"]})");
  EXPECT_EQ(Json({1, "a", nullptr}).dump(), R"([1,"a",null])");
  EXPECT_EQ(Json::array({Json{"a", 1}}).dump(), R"([["a",1]])");
  Json value;
  value["list"].push_back(std::uint64_t{7});
  value["flag"] = true;
  EXPECT_EQ(value.dump(), R"({"flag":true,"list":[7]})");
  value.erase("flag");
  EXPECT_FALSE(value.contains("flag"));
}

TEST(Json, NumbersAreCheckedAgainstTheirType) {
  const Json all = Json::parse("[-1, 4294967296, 18446744073709551615, 2.0, 1]");
  EXPECT_EQ(all[0].get<std::int32_t>(), -1);
  EXPECT_EQ(all[1].get<std::int64_t>(), std::int64_t{1} << 32U);
  EXPECT_EQ(all[2].get<std::uint64_t>(), std::numeric_limits<std::uint64_t>::max());
  EXPECT_EQ(all[4].get<double>(), 1.0);
  EXPECT_FALSE(all[0].is_count());
  EXPECT_TRUE(all[2].is_count());
  EXPECT_FALSE(all[3].is_integer());
  EXPECT_TRUE(all[4].is_integer_in(1, 1));
  EXPECT_EQ(Json(1), Json(1.0));
  EXPECT_EQ(problem_of([&] { all[1].get<std::int32_t>(); }),
            "a number is where an integer of 32 bits should be");
  EXPECT_EQ(problem_of([&] { all[2].get<std::int64_t>(); }),
            "a number is where an integer of 64 bits should be");
  EXPECT_EQ(problem_of([&] { all[0].get<std::uint64_t>(); }),
            "a number is where an integer of at least 0 should be");
  EXPECT_EQ(problem_of([&] { all[3].get<std::int64_t>(); }),
            "a number is where an integer of 64 bits should be");
}

TEST(Json, FaultsAreTold) {
  const Json object{{"a", "x"}, {"b", 1}};
  EXPECT_EQ(problem_of([&] { object.at("c"); }), "its field 'c' is missing");
  EXPECT_EQ(problem_of([&] { object.at("a").get<bool>(); }),
            "a string is where true or false should be");
  EXPECT_EQ(problem_of([&] { object[1]; }), "an object is where an array should be");
  EXPECT_EQ(problem_of([&] { Json::array({1})[1]; }), "an array has 1 elements, not 2");
  EXPECT_EQ(problem_of([&] { Json(1).items(); }), "a number is where an object should be");
  EXPECT_EQ(problem_of([&] { Json(1).value("a", ""); }), "none");
  EXPECT_EQ(problem_of([&] { Json("\xff").dump(); }).substr(0, 18), "invalid UTF-8 byte");
  EXPECT_EQ(Json("\xff").dump(-1, Json::Bytes::kReplaced), "\"\xef\xbf\xbd\"");
  EXPECT_EQ(Json::from_cbor(Json("\xff").to_cbor()).string(), "\xff");
}

TEST(Json, TextsThatAreNotJson) {
  try {
    Json::parse("[1, 2,, 3]");
    FAIL();
  } catch (const JsonError& error) {
    EXPECT_EQ(error.byte(), 7U);
  }
  EXPECT_TRUE(Json::parse_or_null("{").is_null());
  EXPECT_EQ(problem_of([] { Json::parse(std::string(100'000, '[')); }), "it is nested too deeply");
  EXPECT_EQ(problem_of([] { Json::parse(R"({"a":{"b":1,"b":2}})", {.unique_keys = true}); }),
            "it has 'b' twice");
  EXPECT_EQ(problem_of([] { Json::from_cbor("\x82\x01"); }).find("none"), std::string::npos);
  const std::string deep = std::string(512, '[') + std::string(512, ']');
  EXPECT_EQ(Json::parse(deep).dump(), deep);
}

}  // namespace
}  // namespace moesaic
