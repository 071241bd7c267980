// The page's words in English.
/** @type {Record<string, string>} */
export const EN = {
  skip: "Skip to the question", views: "Views", tab_talk: "Conversation", tab_lesson: "Lesson", tab_lens: "Lenses", tab_compare: "Side by side",
  other_language: "한국어", close: "Close", cancel: "Cancel", save: "Save", continue: "Continue",
  // the server
  needs_key: "the server asks for a key", answered: "the server answered {status}", after_seconds: "after {seconds} s",
  gone_short: "There is no answer from the server.", broke_short: "The connection broke. What arrived is kept.",
  gone: "The server cannot be reached. Start it again in a terminal with `trilens serve`; this page then continues by itself, and your conversations stay in this browser.",
  broke: "The connection to the server broke. If the server has ended, start it again with `trilens serve`. What arrived is kept.",
  ended_early: "The connection ended before the answer did. What arrived is kept.",
  trying_again: "Trying again every 2 seconds.", no_models: "None of the models here can be read. Start the server with another one: trilens serve tiny-dense tiny-routed",
  key_title: "This server asks for a key", key: "API key", key_kept: "It is kept until this tab is closed.",
  // conversations
  conversations: "Conversations", fresh: "New conversation", no_list: "Your conversations will be listed here. They are kept in this browser only.",
  not_kept: "This browser cannot store conversations (private window, or no space left). Export those you want to keep.",
  import: "Import", export_all: "Export all", export: "Export", export_short: "Export", rename: "Rename", rename_short: "Rename", delete: "Delete", delete_short: "Delete",
  really_delete: "Delete “{title}”?", new_name: "New name", untitled: "Untitled",
  import_not_json: "This file is not JSON. Choose a file that was exported here.", import_format: "This file has no conversations: its format is not {format}.",
  import_place: "This file cannot be imported: {place} is wrong.",
  empty: "Ask something. Each answer shows its cost below.", question: "Question", model: "Model", models: "Models", ask: "Ask", stop: "Stop", answer_now: "Answer now",
  copy: "Copy", copied: "Copied", not_copied: "Not copied", edit: "Edit", edit_question: "Edit the question", ask_again: "Ask", regenerate: "Try again",
  edit_keeps: "The old question and its answers stay, on a branch of their own.", branches: "Branches", branch_before: "Previous branch", branch_after: "Next branch",
  conversation_cost: "This conversation", answers: "{n} answers", on_branches: "{n} of them on other branches",
  attach: "Attach", remove_file: "Remove {name}", file_too_large: "{name} is larger than {most}, which is the maximum for a text file.",
  file_not_text: "{name} is not text in UTF-8. Only text files can be attached.",
  // settings
  settings: "Settings", settings_title: "Settings of this conversation", settings_empty: "An empty field means the model's own default.", system: "System prompt",
  temperature: "Temperature", max_tokens: "Max. tokens", seed: "Seed", tools: "Tools, as JSON (a list of functions)", tool_choice: "Call a tool",
  choice_auto: "if the model decides to", choice_required: "always", tools_not_json: "The tools are not valid JSON.", tools_without_name: "Each tool needs a name: {\"name\": \"add\", \"parameters\": {…}}.",
  calls: "Calls", result_of: "Result of", result_for: "Result of {name}", send_result: "Send result",
  // answers
  thinking: "Thinking", thinking_now: "Thinking …", tokens: "{n} tokens", one_token: "1 token", receipt: "Receipt", in_out: "{in} in, {out} out", speed: "{n} tokens/s", try_again: "Try again",
  stopped: "Stopped.", cut_off: "Cut off: the token limit was reached.", unasked: "The model thought although thinking was off.",
  closed_by_budget: "The budget ended the thinking.", closed_by_caller: "You ended the thinking.", closed_by_length: "The thinking reached its limit.",
  thinking_default: "Default", thinking_off: "Off", thinking_on: "On", thinking_auto: "Auto", thinking_budget: "Budget", thinking_minimal: "Minimal", thinking_low: "Low",
  thinking_medium: "Medium", thinking_high: "High", thinking_max: "Max", budget_tokens: "Tokens", tokens_of_thinking: "Tokens of thinking",
  colour_words: "{dense} of the weights fire, routers skip {routed}, thinking {reasoning}",
  // lenses
  part_total: "total", part_embedding: "embedding", part_attention_projections: "attention projections", part_attention: "attention", part_convolution: "convolution",
  part_recurrence: "recurrence", part_feed_forward: "feed-forward", part_router: "router", part_residual_streams: "residual streams", part_head: "head",
  router: "The router, token by token", token: "Token", flops_per_token: "Operations per token", bytes_per_token: "Bytes per token", cache_over_context: "Cache over context",
  predicted_and_measured: "Predicted and measured", cache_label: "Cache over context, {bytes} at {tokens} tokens", unknown: "unknown", fires: "fires", left_out: "left out",
  thought: "thought", can_think: "can think", sizes: "{total} weights, {active} active", no_card: "cannot be read",
  ask_first: "Ask something first. Each answer's receipt contains the prediction that was made before it.", first_token: "first token", each_token: "each token",
  predicted: "predicted {p50} ({range}), measured {measured}", between: "{a} to {b}",
  heat_dense: "{model} has no router: every weight fires for every token, in all {layers} layers.", heat_engine: "{model} runs on an engine, which does not say which experts fire.",
  heat_empty: "{model}: {experts} experts in each of {layers} layers. Ask something, and they light up here.",
  heat_token: "Token {at} of {all}: red fires now, green fired before, the stronger the colour, the more often. {fired} of {experts} experts fired so far.",
  // the next token
  next_title: "The next token", next_words: "A model gives every token of its vocabulary a probability, and the sampler draws one. Temperature sharpens or flattens the bars; top‑p leaves out the unlikely ones.",
  next_prompt: "Question", next_look: "Look", next_again: "This is a run of its own: {line}", next_token: "Tokens of the answer", next_gone: "never drawn",
  next_scope: "The 20 likeliest tokens at this place. Temperature {temperature}, top-p {top_p}: {kept} of them can be drawn.", next_none: "An engine runs this model and gives no probabilities.",
  not_measured: "This machine was not measured for this model; `trilens plan` does it.", measured_on: "This machine's kernels, measured on {date}, and {runs} runs of this model.",
  // side by side
  question_for_both: "Question for all", one_question: "One question for all", ask_both: "Ask all", model_n: "Model {n}", add_side: "Add a model", remove_side: "Remove model {n}", times_first: "×: compared with the first.",
  tokens_out: "tokens out", of_these_thinking: "of these thinking", operations: "operations", bytes_read: "bytes read", seconds_computing: "seconds of computing", weights_held: "weights held",
};
