"""The same call elsewhere: hosted models, and engines that speak OpenAI's chat."""
