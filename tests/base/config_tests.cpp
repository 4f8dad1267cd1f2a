// SPDX-License-Identifier: MIT
#include "qwen3_mlx/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>

#include "qwen3_mlx/error.h"
#include "testing/temp_dir.h"

namespace qwen3_mlx {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr const char* sample = R"({
  "int": 7, "whole": 3.0, "real": 0.5, "big": 18446744073709551615,
  "text": "x", "yes": true, "nothing": null, "exponent": 1e6,
  "list": [1, 2], "names": ["a", "b"],
  "inner": {"factor": "four", "deeper": {"k": []}}
})";

Config parse(std::string_view text) {
  return Config::parse("dir/config.json", text);
}

TEST(Config, ReadsTypedValues) {
  const auto config = parse(sample);
  EXPECT_EQ(config.get_int("int"), 7);
  EXPECT_EQ(config.get_int("whole"), 3);
  EXPECT_EQ(config.get_int("exponent"), 1'000'000);
  EXPECT_EQ(config.get_float("real"), 0.5);
  EXPECT_EQ(config.get_float("int"), 7.0);
  EXPECT_EQ(config.get_string("text"), "x");
  EXPECT_TRUE(config.get_bool("yes"));
  EXPECT_THAT(config.get_ints("list"), ElementsAre(1, 2));
  EXPECT_THAT(config.get_ints("int"), ElementsAre(7));
  EXPECT_THAT(config.get_ints("absent"), IsEmpty());
  EXPECT_THAT(config.get_strings("names"), ElementsAre("a", "b"));
  EXPECT_EQ(config.get_int_or("absent", -1), -1);
  EXPECT_EQ(config.get_float_or("nothing", 2.5), 2.5);
  EXPECT_EQ(config.get_string_or("absent", "y"), "y");
  EXPECT_EQ(config.get_bool_or("absent", true), true);
  EXPECT_FALSE(config.has("nothing"));
  EXPECT_TRUE(config.is_null("nothing"));
  EXPECT_TRUE(config.is_object("inner"));
  EXPECT_FALSE(config.find_sub("nothing"));
  EXPECT_THAT(config.sub("inner").keys(), ElementsAre("deeper", "factor"));
  EXPECT_EQ(parse(config.dump()).get_int("int"), 7);
}

struct Wrong {
  std::string name;
  std::function<void(const Config&)> read;
  std::string field;
  std::string reason;
};

std::ostream& operator<<(std::ostream& out, const Wrong& wrong) {
  return out << wrong.name;
}

class WrongField : public ::testing::TestWithParam<Wrong> {};

TEST_P(WrongField, IsNamedWithWhatWasExpectedAndFound) {
  const auto config = parse(sample);
  try {
    GetParam().read(config);
    FAIL();
  } catch (const FieldError& error) {
    EXPECT_EQ(error.path(), "dir/config.json");
    EXPECT_EQ(error.field(), GetParam().field);
    EXPECT_THAT(error.what(), HasSubstr(GetParam().reason));
  }
}

INSTANTIATE_TEST_SUITE_P(
    Config,
    WrongField,
    ::testing::ValuesIn(std::vector<Wrong>{
        {"Missing",
         [](const Config& c) { c.get_int("absent"); },
         "absent",
         "is missing, expected an integer"},
        {"Null",
         [](const Config& c) { c.get_string("nothing"); },
         "nothing",
         "is missing"},
        {"TextForInt",
         [](const Config& c) { c.get_int("text"); },
         "text",
         "expected an integer, found the string \"x\""},
        {"RealForInt",
         [](const Config& c) { c.get_int("real"); },
         "real",
         "found 0.5"},
        {"AboveInt64",
         [](const Config& c) { c.get_int("big"); },
         "big",
         "found 18446744073709551615"},
        {"OutOfRange",
         [](const Config& c) { c.get_int("int", 8, 9); },
         "int",
         "an integer from 8 to 9, found 7"},
        {"BoolForFloat",
         [](const Config& c) { c.get_float("yes"); },
         "yes",
         "a finite number, found true"},
        {"IntForBool",
         [](const Config& c) { c.get_bool("int"); },
         "int",
         "true or false, found 7"},
        {"IntForText",
         [](const Config& c) { c.get_string("int"); },
         "int",
         "a string"},
        {"TextInInts",
         [](const Config& c) { c.get_ints("names"); },
         "names[0]",
         "found the string \"a\""},
        {"IntInTexts",
         [](const Config& c) { c.get_strings("list"); },
         "list[0]",
         "a string, found 1"},
        {"ListForObject",
         [](const Config& c) { c.sub("list"); },
         "list",
         "an object, found a list"},
        {"Nested",
         [](const Config& c) { c.sub("inner").get_float("factor"); },
         "inner.factor",
         "found the string \"four\""},
        {"NestedTwice",
         [](const Config& c) { c.sub("inner").sub("deeper").get_int("k"); },
         "inner.deeper.k",
         "found a list"},
    }),
    [](const ::testing::TestParamInfo<Wrong>& each) {
      return each.param.name;
    });

TEST(Config, RefusesWhatIsNoObject) {
  for (const auto* text :
       {"",
        "[]",
        "1",
        "{",
        "{\"a\":}",
        "{\"a\":1,}",
        "{} {}",
        "\"\xFF\"",
        "{\"a\":1e999}"}) {
    EXPECT_THROW(parse(text), FileError) << text;
  }
  EXPECT_THROW(parse(R"({"a":1,"b":{"k":1,"k":2}})"), FieldError);
  EXPECT_THROW(parse("{\"a\":" + std::string(100'000, '[')), FileError);
  const std::string deep = std::string(70, '[') + std::string(70, ']');
  EXPECT_THROW(parse("{\"a\":" + deep + "}"), FileError);
}

TEST(Config, FilesAreBounded) {
  const testing::TempDir dir;
  EXPECT_EQ(Config::load(dir.write("a.json", "{\"k\":1}")).get_int("k"), 1);
  EXPECT_THROW(Config::load(dir.path() / "absent.json"), FileError);
  EXPECT_THROW(Config::load(dir.path()), FileError);
}

} // namespace
} // namespace qwen3_mlx
