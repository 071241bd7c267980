// The words of "Looking inside" in English.
/** @type {Record<string, string>} */
export const EN = {
  title: "Looking inside", words: "A look runs the model once more over a text of at most 512 tokens and shows what usually stays inside. Nothing is computed until you press the button.",
  text: "Text to look at", look: "Look", take: "Use the conversation", taken: "The conversation, {n} messages", write: "Use a text", engine: "{model} runs on an engine, which does not show what happens inside.",
  tokens: "Tokens of the text", choose: "Choose a token. Both views below are about it.", cost: "This look: {line}", read: "{bytes} read",
  attention: "Attention of a head", attention_words: "For each token, a head spreads its attention over the tokens up to it: the stronger a colour, the more that token adds to the one you chose.",
  layer: "Layer", head: "Head", no_heads: "{layer}: no attention", no_attention: "{model} has no attention: its layers carry a state from token to token.", share: "{at}. {token}", sink: "to no token (sink)",
  others: "{n} others", map: "Attention of layer {layer}, head {head}: a row for each token, a column for each token before it. {token} looks most at {most}, with {share}.",
  lens: "Logit lens", lens_words: "If the model stopped after a layer, these are the tokens that it would expect next: you see at which layer the prediction appears.",
  lens_of: "What comes after {token}? The text goes on with {next}.", lens_last: "What comes after {token}, the last token?",
};
