#include <gtest/gtest.h>

#include <cstdlib>

#include "base/error.h"
#include "config/routing_steps.h"
#include "config/value.h"

namespace moesaic::config {
namespace {

using Items = std::vector<std::string>;

// Protects the forms of numbers that configs may use.
TEST(Value, ReadsIntegers) {
  EXPECT_EQ(parse_integer("5000"), 5000);
  EXPECT_EQ(parse_integer("-3"), -3);
  EXPECT_EQ(parse_integer("4e9"), 4000000000);
  EXPECT_EQ(parse_integer("64Ki"), 65536);
  EXPECT_EQ(parse_integer("1.5 Mi"), 1572864);
  EXPECT_EQ(parse_integer("2Gi"), std::int64_t{1} << 31);
  EXPECT_EQ(parse_integer("9223372036854775807"), INT64_MAX);
  for (const char* const bad : {"", "4.5", "1e30", "64K", "five", "0x10", "3 4", "nan", "Ki"}) {
    EXPECT_THROW(parse_integer(bad), Error) << bad;
  }
}

// Protects durations, sizes and booleans, and that what is no such value is refused.
TEST(Value, ReadsDurationsSizesAndBooleans) {
  EXPECT_EQ(parse_duration("90 s"), 90);
  EXPECT_EQ(parse_duration("90"), 90);
  EXPECT_EQ(parse_duration("20 min"), 1200);
  EXPECT_EQ(parse_duration("20min"), 1200);
  EXPECT_EQ(parse_duration("1.5 h"), 5400);
  EXPECT_EQ(parse_duration("2 d"), 172800);
  EXPECT_EQ(parse_duration("3:55:00"), 14100);
  EXPECT_EQ(parse_duration("2:30"), 150);
  for (const char* const bad : {"", "3:55:", "3:75", "ten", "4 weeks", "1:2:3:4", "-1:00"}) {
    EXPECT_THROW(parse_duration(bad), Error) << bad;
  }
  EXPECT_EQ(parse_bytes("16GiB"), 17179869184.0);
  EXPECT_EQ(parse_bytes("16 GiB"), 17179869184.0);
  EXPECT_EQ(parse_bytes("500 MB"), 5e8);
  EXPECT_EQ(parse_bytes("1e9"), 1e9);
  EXPECT_THROW(parse_bytes("16 gigs"), Error);
  EXPECT_TRUE(parse_boolean("true"));
  EXPECT_FALSE(parse_boolean("0"));
  EXPECT_THROW(parse_boolean("yes"), Error);
  EXPECT_THROW(parse_number("inf"), Error);
}

// Protects weights by name; the last colon divides, and what is no such value is refused.
TEST(Value, ReadsWeights) {
  EXPECT_EQ(parse_weight("code:2"), NamedWeight("code", 2));
  EXPECT_EQ(parse_weight(" a:b : 1e-3"), NamedWeight("a:b", 1e-3));
  EXPECT_EQ(parse_weight(format_weight({"x y", 0.1})), NamedWeight("x y", 0.1));
  for (const char* const bad : {"", "code", "code:", ":2", "code:much"}) {
    EXPECT_THROW(parse_weight(bad), Error) << bad;
  }
}

// Protects ranges of samples: an empty one would skip nothing in silence.
TEST(Value, ReadsSampleRanges) {
  EXPECT_EQ(parse_samples("40:48"), (SampleRange{40, 48}));
  EXPECT_EQ(parse_samples(" 0 : 4e3 "), (SampleRange{0, 4000}));
  EXPECT_EQ(format_samples({40, 48}), "40:48");
  for (const char* const bad : {"", "40", "40:", ":48", "48:40", "40:40", "-4:8", "a:b", "1:2:3"}) {
    EXPECT_THROW(parse_samples(bad), Error) << bad;
  }
}

// Protects which steps are recorded: a range holds both of its ends, and they count from 1.
TEST(Value, ReadsSteps) {
  Trace trace;
  for (const char* const text : {"1-3", "7", "every:5"}) {
    trace.routing.push_back(parse_steps(text));
    EXPECT_EQ(format_steps(trace.routing.back()), text);
  }
  std::vector<std::int64_t> recorded;
  for (std::int64_t step = 0; step <= 12; ++step) {
    if (records_routing(trace, step)) {
      recorded.push_back(step);
    }
  }
  EXPECT_EQ(recorded, (std::vector<std::int64_t>{1, 2, 3, 5, 7, 10}));
  EXPECT_EQ(routing_steps(trace, 12), 6);
  trace.routing = {parse_steps("all")};
  EXPECT_EQ(format_steps(trace.routing.back()), "all");
  EXPECT_EQ(routing_steps(trace, 12), 12);
  for (const char* const bad : {"", "0", "3-2", "-4", "every:0", "every:", "some", "1-"}) {
    EXPECT_THROW(parse_steps(bad), Error) << bad;
  }
}

// Protects lists, quotes and expansion, and that a quoted item is read back as it was.
TEST(Value, ReadsItems) {
  ::setenv("MOESAIC_TEST_DIR", "/data/x", 1);
  ::setenv("HOME", "/home/me", 1);
  EXPECT_EQ(parse_items("a, b ,c"), (Items{"a", "b", "c"}));
  EXPECT_EQ(parse_items(""), Items{});
  EXPECT_EQ(parse_items("'a, b', \" c \""), (Items{"a, b", " c "}));
  EXPECT_EQ(parse_items("${MOESAIC_TEST_DIR}/corpus"), Items{"/data/x/corpus"});
  EXPECT_EQ(parse_items("~/corpus, a~b"), (Items{"/home/me/corpus", "a~b"}));
  EXPECT_EQ(parse_items("'${MOESAIC_TEST_DIR}'"), Items{"${MOESAIC_TEST_DIR}"});
  EXPECT_EQ(parse_items("it's"), Items{"it's"});
  EXPECT_THROW(parse_items("${MOESAIC_TEST_UNSET}"), Error);
  EXPECT_THROW(parse_items("'open"), Error);
  EXPECT_THROW(parse_items("'a' b"), Error);
  const Items nasty = {"plain",
                       "",
                       " outer ",
                       "a,b",
                       "it's",
                       "'",
                       "say \"x\"",
                       "~/x",
                       "${HOME}",
                       "a # b",
                       "; c",
                       "\n",
                       "\r\n",
                       "\t",
                       "\\",
                       "\\n",
                       "'\n",
                       "\n\"",
                       "a\\",
                       "\n\nQ:",
                       "a\nb",
                       " ",
                       "x\ty",
                       "\f",
                       "\xC3\xBC",
                       "\x01",
                       "[x]",
                       "=",
                       "both ' and \" and ${HOME}\\"};
  for (const std::string& item : nasty) {
    EXPECT_EQ(parse_items(quote_item(item)), Items{item}) << quote_item(item);
    EXPECT_EQ(quote_item(item).find_first_of("\n\r"), std::string::npos) << quote_item(item);
  }
}

// Protects texts with line breaks: what double quotes hold, and what is never dropped in silence.
TEST(Value, ReadsEscapes) {
  EXPECT_EQ(parse_items(R"("\n", "a\tb\r", "\\n\"\'\$")"), (Items{"\n", "a\tb\r", "\\n\"'$"}));
  EXPECT_EQ(parse_items(R"('\n', \n)"), (Items{"\\n", "\\n"}));
  EXPECT_EQ(parse_items("a\nb,\n 'c'"), (Items{"a\nb", "c"}));
  const auto refused = [](const std::string& text) -> std::string {
    try {
      return "read as " + quote_item(parse_items(text).at(0));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), Exit::kUsage);
      return error.what();
    }
  };
  EXPECT_NE(refused(R"("a\d")").find("\\d is not known in double quotes"), std::string::npos);
  const std::vector<std::pair<std::string, std::string>> lost = {
      {"\n", R"("\n")"},       {" ", "' '"},           {"\f", "'\f'"}, {"\r-", R"("\r-")"},
      {"\nQ: ", R"("\nQ: ")"}, {"a, \n,b", R"(" \n")"}};
  for (const auto& [text, remedy] : lost) {
    EXPECT_NE(refused(text).find("write " + remedy + ", with"), std::string::npos) << refused(text);
  }
}

// Protects that a value out of range is refused with the nearest that is valid.
TEST(Value, NamesTheNearestValidValue) {
  EXPECT_NO_THROW(between(0, 1).check(1, "1"));
  EXPECT_THROW(from_to_below(0, 1).check(1, "1"), Error);
  EXPECT_THROW(above(0).check(0, "0"), Error);
  try {
    at_least(1).check(0, "0");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(), "0 is out of range, which is 1 or more; the nearest is 1");
  }
}

}  // namespace
}  // namespace moesaic::config
