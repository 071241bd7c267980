// Logits -> the next token, for one request. The number of its n-th draw depends on the seed and n alone.
#pragma once
#include <algorithm>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <unordered_map>
#include <vector>

#include "draft.h"

namespace trilens {

struct SamplingOptions {
  double temperature = 0.7, top_p = 0.95, min_p = 0;
  int64_t top_k = 0;
  double repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
  uint64_t seed = 0;
};

struct Alternative {
  int32_t token;
  double log_probability;  // of the model's own distribution, before penalties and temperature
};

class Sampler {
 public:
  // `prompt`: the tokens that the repetition penalty sees beside the answer's own.
  Sampler(SamplingOptions options, const int32_t* prompt, size_t prompt_tokens);

  // Penalties, bias, what is allowed, temperature, top-k, top-p, min-p, in this order. Equal logits rank by their ids.
  // Throws Refused where no logit is a number or none is allowed.
  int32_t choose(const float* logits, int vocab);
  void note(int32_t token) {  // put into the answer without being drawn
    answer_[token]++;
    if (draft) draft->add(token);
  }

  // Bit i of the words: whether token i may be chosen next; empty allows all. It holds until it is set again.
  void allow(std::vector<uint32_t> words) { allowed_ = std::move(words); }
  void bias(int32_t token, float added) { bias_[token] += added; }

  void undo(const std::vector<int32_t>& tokens);  // the last ones that were chosen, as if they had not been

  std::vector<int32_t> ends;  // tokens behind which nothing more is drawn
  bool is_end(int32_t token) const { return std::find(ends.begin(), ends.end(), token) != ends.end(); }

  std::unique_ptr<Draft> draft;  // proposes tokens; null: nobody does

  // For each token that was chosen, until somebody takes it: the token, then the `alternatives` likeliest ones. Only where
  // alternatives >= 0.
  int alternatives = -1;
  std::deque<std::vector<Alternative>> reports;

  uint64_t drawn = 0;
  int32_t chosen = -1;  // by the last step that drew; -1 where it could not, and why
  std::string fault;

 private:
  struct Candidate { double weight; float logit; int32_t token; };

  const float* changed(const float* logits, int vocab);
  int32_t draw(const float* logits, int vocab, float most);
  void likeliest(const float* logits, int vocab, float most, size_t few);
  void report(const float* logits, int vocab, int32_t token);

  SamplingOptions options_;
  std::vector<int32_t> prompt_;  // each token once
  std::unordered_map<int32_t, int64_t> answer_;
  std::unordered_map<int32_t, float> bias_;
  std::vector<uint32_t> allowed_;
  std::vector<float> scratch_;
  std::vector<double> weights_;
  std::vector<Candidate> candidates_;  // highest logit first, equal ones by id
};

// The n-th number in [0, 1) of a seed: splitmix64's output function on seed + (n + 1) * golden ratio.
double uniform(uint64_t seed, uint64_t n);

// e^x for x <= 0, the same bits on every machine: no step calls the C library's.
double exp_negative(double x);

}  // namespace trilens
