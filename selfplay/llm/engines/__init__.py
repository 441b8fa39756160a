"""What writes completions: torch, vLLM in this process, a vLLM server."""
