// Speculation by prompt lookup: where a sequence's last tokens stood earlier in it, what followed them there is proposed.
// Where they did not, the caller may have a token that the model's own block for multi-token prediction expects.
// Behind these may come tokens that a grammar leaves no choice about; the caller knows the grammar.
//
// A draft changes no answer. The step computes the proposed tokens behind the last one, and the sampler draws at each place
// what it would have drawn there anyway: a proposal that equals the drawn token saves a step, and the rest is taken back.
// So only time decides whether to propose, and how much.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

namespace trilens {

// Seconds of a step in which each sequence draws.
struct Prices {
  double plain = 0;  // of the whole step without proposed tokens; 0: not known yet
  double worth = 0;  // what a token saves that need not be drawn in a step of its own
  double row = 0;    // what a proposed token costs
};

class Draft {
 public:
  // At most `most` tokens are proposed at a time. `always`: propose whatever it costs.
  Draft(std::vector<int32_t> prompt, int most, bool always) : tokens_(std::move(prompt)), most_(most), always_(always) {}

  void add(int32_t token) { tokens_.push_back(token); }
  void forget_last() { tokens_.pop_back(); }  // since the last proposal

  // At most `most` tokens, as many as pay. Nothing where earlier drafts have cost more than they saved.
  const std::vector<int32_t>& propose(int most, const Prices& prices);
  // How many tokens pay, at most `most`, of those that a grammar leaves no choice about.
  int forced(int most, const Prices& prices) const;

  // Whether a token that the model's block predicts would pay, and what it took to predict one.
  bool predicts(const Prices& prices) const;
  void predicted(double seconds);

  // A step is over in which it drew. Later proposals may be asked for with its prices, which are kept.
  void passed(double seconds, const Prices& prices) { elapsed_ += seconds, prices_ = prices; }
  const Prices& prices() const { return prices_; }
  // What became of a proposal: of its `proposed` tokens, the first `looked_up` of which were looked up, or the first
  // `predicted` were predicted, the first `accepted` were right.
  void judged(int looked_up, int predicted, int proposed, int accepted, double cost, double saved);

 private:
  static constexpr int LONG = 6, SHORT = 2;  // tokens that have to be equal; the short ones are tried where the long fail
  static constexpr int LONGEST = 32;         // equal tokens that are counted
  static constexpr int CANDIDATES = 8;       // earlier places that are compared, the latest first
  static constexpr double LOSS = 0.01;   // of a request's time that drafts may lose
  static constexpr double STAKE = 0.3;   // of a step, that they may lose before there was any time

  struct Record {  // of proposed tokens, as many as came up to the first wrong one
    double right, tried;
    void add(int accepted, int proposed);
  };

  // Where each run of `gram` tokens ended.
  struct Index {
    int gram;
    std::unordered_map<uint64_t, int32_t> latest{};  // by the run's hash: where it ended last
    std::vector<int32_t> before{};                   // of each place: where the same run ended before that

    uint64_t hash(const std::vector<int32_t>& tokens, size_t end) const;
    void reach(const std::vector<int32_t>& tokens);
  };

  bool pays(const Prices& prices) const;
  Record& record(int match) { return records_[match < 3 ? 0 : match < 4 ? 1 : match < 8 ? 2 : 3]; }
  size_t longest_match(Index& index);

  std::vector<int32_t> tokens_, proposed_;
  Index long_{LONG}, short_{SHORT};
  const int most_;
  const bool always_;
  int match_ = 0;
  Record records_[4] = {{0.9, 3}, {1.2, 3}, {1.8, 3}, {2.55, 3}};  // begun with a guess of 30, 40, 60 and 85 %
  Record forced_ = {1.9, 2};  // the grammar's tokens could be written in other pieces
  Record predicted_ = {1.5, 3};
  double predicting_ = 0;  // seconds that a prediction takes
  Prices prices_;
  double elapsed_ = 0, spent_ = 0, saved_ = 0;          // seconds
};

}  // namespace trilens
