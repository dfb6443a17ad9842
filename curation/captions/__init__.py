"""Captions by a multimodal language model: prompts, requests, answers, their verification."""
