#include "eval/datasets/dataset_tasks.h"

#include <fmt/core.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"

namespace mneme {
namespace {

constexpr const char* kStory =
    "Read this story, then answer a question about it with a single phrase.\n\n{context}\n\nQuestion: "
    "{input}\n\n"
    "Answer with a single phrase, without an explanation.\nAnswer:";
constexpr const char* kArticle =
    "Read this scientific article, then answer a question about it in one phrase or sentence. Answer yes or "
    "no "
    "where that is asked, and \"unanswerable\" where the article does not say.\n\n{context}\n\nQuestion: "
    "{input}\n"
    "Answer:";
constexpr const char* kText =
    "Read this text, then answer a question about it. Give only the answer.\n\n{context}\n\nQuestion: "
    "{input}\n"
    "Answer:";
constexpr const char* kPassages =
    "Read these passages, then answer a question about them. Give only the answer.\n\n{context}\n\nQuestion: "
    "{input}\nAnswer:";
constexpr const char* kChineseText =
    "阅读下面的文字，然后回答问题，只写答案。\n\n{context}\n\n问题：{input}\n回答：";
constexpr const char* kReport =
    "Summarize this report on one page.\n\n{context}\n\nSummary of the report, one page:";
constexpr const char* kMeeting =
    "Read this record of a meeting, then answer the query in one or more sentences.\n\n{context}\n\nQuery: "
    "{input}\nAnswer:";
constexpr const char* kNews = "Summarize these news on one page.\n\n{context}\n\nSummary of all the news:";
constexpr const char* kChineseMeeting = "阅读下面的会议记录，然后写一段总结。\n\n{context}\n\n会议总结：";
constexpr const char* kQuestionType =
    "Name the type of the last question, as these examples do.\n\n{context}\n{input}";
constexpr const char* kTrivia = "Answer the last question as these examples do.\n\n{context}\n\n{input}";
constexpr const char* kDialogue = "Summarize the last dialogue as these examples do.\n\n{context}\n\n{input}";
constexpr const char* kChineseClass = "参照下面的例子，写出最后一条新闻的类别。\n\n{context}\n{input}";
constexpr const char* kCountParagraphs =
    "Some of these paragraphs occur more than once. Count the different ones.\n\n{context}\n\nWrite only the "
    "number of different paragraphs: ";
constexpr const char* kWhichParagraph =
    "Find the paragraph that the abstract below was written from.\n\n{context}\n\nAbstract: {input}\n\nWrite "
    "\"Paragraph\" and its number. Answer: ";
constexpr const char* kChineseParagraph =
    "下面有若干段落和其中一段的摘要，找出摘要出自哪一段。\n\n{context}\n\n摘要：{input}"
    "\n\n写出“段落”和编号。答案：";
constexpr const char* kCode = "Complete this code.\n{context}Next line of code:\n";
constexpr const char* kCodeRepository = "Complete this code.\n{context}{input}Next line of code:\n";

constexpr const char* kHidden =
    "Something important is hidden in the text below. Find it and remember it; a question about it "
    "follows.\n\n"
    "{context}\n\n{input}";
constexpr const char* kJson = "Find the value of one key in the JSON object below.\n\n{context}\n\n{input}";
constexpr const char* kBook =
    "Read this book, then answer a question about it.\n\n{context}\n\nQuestion: {question}\n\nAnswer as "
    "briefly "
    "as possible. Answer:";
constexpr const char* kBookChoice =
    "Read this book, then answer a question about it.\n\n{context}\n\nQuestion: {question}\nA. "
    "{OPTION_A}\nB. "
    "{OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\nOne of these is right. Its letter:";
constexpr const char* kBookSummary = "Summarize this book.\n\n{context}\n\nSummary:";
constexpr const char* kChineseBook =
    "阅读下面的书，然后回答问题。\n\n{context}\n\n问题：{question}\n请简短回答：";
constexpr const char* kListNumber = "{prefix}\n\n{context}\n\n{input}";
constexpr const char* kCalculate =
    "Compute this long expression from left to right and write every intermediate value.\n\n{context}";
constexpr const char* kRunCode =
    "Here are Python functions, {func} among them.\n\n{context}\n\nWhat number does {func_call} return? End "
    "with "
    "that number.";
constexpr const char* kDebugCode =
    "One function in this code has an error that was put in on purpose. Find it.\n\n{context}\n\nWhich "
    "function "
    "is it?\nA. {OPTION_A}\nB. {OPTION_B}\nC. {OPTION_C}\nD. {OPTION_D}\n\nIts letter:";
constexpr const char* kScript =
    "In this script one name of a character was replaced by \"$$MASK$$\".\n\n{context}\n\nWhich character is "
    "\"$$MASK$$\"? Write only the name. Answer:";

constexpr const char* kBabi =
    "Facts about people, places and things are hidden in the text below, in the order in which they "
    "happened. "
    "Answer the question from these facts alone; where facts differ, the latest counts. Write only the "
    "answer, "
    "one of: {labels}.\n\n<context>\n{input}\n</context>\n\nQuestion: {question}\nAnswer:";

std::vector<DatasetTask> LongBenchTasks() {
  const auto task = [](const char* name, const char* prompt, Metric metric, int64_t max_tokens,
                       bool first_line = false, bool few_shot = false) {
    return DatasetTask{Benchmark::kLongBench, name, prompt, metric, max_tokens, first_line, few_shot};
  };
  return {
      task("2wikimqa", kPassages, Metric::kTokenF1, 32),
      task("dureader", kChineseText, Metric::kRougeLCharacters, 128),
      task("gov_report", kReport, Metric::kRougeL, 512),
      task("hotpotqa", kPassages, Metric::kTokenF1, 32),
      task("lcc", kCode, Metric::kCode, 64, false, true),
      task("lsht", kChineseClass, Metric::kClass, 64, true, true),
      task("multi_news", kNews, Metric::kRougeL, 512),
      task("multifieldqa_en", kText, Metric::kTokenF1, 64),
      task("multifieldqa_zh", kChineseText, Metric::kCharacterF1, 64),
      task("musique", kPassages, Metric::kTokenF1, 32),
      task("narrativeqa", kStory, Metric::kTokenF1, 128),
      task("passage_count", kCountParagraphs, Metric::kCount, 32),
      task("passage_retrieval_en", kWhichParagraph, Metric::kParagraph, 32),
      task("passage_retrieval_zh", kChineseParagraph, Metric::kParagraph, 32),
      task("qasper", kArticle, Metric::kTokenF1, 128),
      task("qmsum", kMeeting, Metric::kRougeL, 512),
      task("repobench-p", kCodeRepository, Metric::kCode, 64, false, true),
      task("samsum", kDialogue, Metric::kRougeL, 128, true, true),
      task("trec", kQuestionType, Metric::kClass, 64, true, true),
      task("triviaqa", kTrivia, Metric::kTokenF1, 32, true, true),
      task("vcsum", kChineseMeeting, Metric::kRougeLCharacters, 512),
  };
}

std::vector<DatasetTask> InfiniteBenchTasks() {
  const auto task = [](const char* name, const char* prompt, Metric metric, int64_t max_tokens) {
    return DatasetTask{Benchmark::kInfiniteBench, name, prompt, metric, max_tokens, false, false};
  };
  return {
      task("code_debug", kDebugCode, Metric::kFunctionChoice, 32),
      task("code_run", kRunCode, Metric::kLastNumber, 32),
      task("kv_retrieval", kJson, Metric::kContainsWord, 100),
      task("longbook_choice_eng", kBookChoice, Metric::kChoice, 32),
      task("longbook_qa_chn", kChineseBook, Metric::kCharacterF1, 32),
      task("longbook_qa_eng", kBook, Metric::kTokenF1, 32),
      task("longbook_sum_eng", kBookSummary, Metric::kRougeLSum, 1536),
      task("longdialogue_qa_eng", kScript, Metric::kContainsAnyCase, 32),
      task("math_calc", kCalculate, Metric::kNumberPrefix, 64000),
      task("math_find", kListNumber, Metric::kNumberValue, 32),
      task("number_string", kHidden, Metric::kFirstNumber, 32),
      task("passkey", kHidden, Metric::kFirstNumber, 32),
  };
}

std::vector<DatasetTask> BabiTasks() {
  std::vector<DatasetTask> tasks;
  for (int i = 1; i <= 20; ++i)
    tasks.push_back({Benchmark::kBabi, fmt::format("qa{}", i), kBabi, Metric::kLabel, 20, false, false});
  return tasks;
}

}  // namespace

std::string_view BenchmarkName(Benchmark benchmark) {
  switch (benchmark) {
    case Benchmark::kLongBench:
      return "longbench";
    case Benchmark::kInfiniteBench:
      return "infinitebench";
    case Benchmark::kBabi:
      return "babi";
  }
  return "";
}

std::span<const DatasetTask> DatasetTasks(Benchmark benchmark) {
  static const std::vector<DatasetTask> longbench = LongBenchTasks();
  static const std::vector<DatasetTask> infinitebench = InfiniteBenchTasks();
  static const std::vector<DatasetTask> babi = BabiTasks();
  switch (benchmark) {
    case Benchmark::kLongBench:
      return longbench;
    case Benchmark::kInfiniteBench:
      return infinitebench;
    case Benchmark::kBabi:
      return babi;
  }
  return {};
}

const DatasetTask& FindDatasetTask(Benchmark benchmark, std::string_view name) {
  std::string known;
  for (const DatasetTask& task : DatasetTasks(benchmark)) {
    if (task.name == name) return task;
    known += (known.empty() ? "" : ", ") + task.name;
  }
  Fail(ErrorKind::kInput, "{} has no task '{}'; it has {}", BenchmarkName(benchmark), name, known);
}

}  // namespace mneme
