"""Everything between a user's files and words and the model's arrays: pictures, prompts, tokens, boxes. No model."""
