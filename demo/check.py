"""Asks the demo model questions, greedily, with mlx-lm, and prints a table of the answers. Some wordings are in the training text, others are not.

    python3 check.py [--model model]
"""

import argparse
from pathlib import Path

from mlx_lm import generate, load

WEATHER = [{"type": "function", "function": {"name": "get_weather", "description": "Get the current weather for a city", "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}}]
CALL = {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}]}


def said(*turns):
    return [{"role": r, "content": c} for r, c in zip(["user", "assistant"] * len(turns), turns)]


CHATS = [(said(q), None) for q in [
    "Hello!", "hi there, how are you doing today?", "Who are you?", "What is mlxrt?", "what can you do for me",
    "Tell me a short story about a fox.", "Please write a story about a robot who is afraid of water.", "Tell me a story about a penguin named Bob",
    "What is the capital of France?", "capital of japan?", "Could you please tell me what the capital city of Italy is?",
    "What is 7 + 5?", "What is 38+27?", "how much is 9 times 8", "What's 81 minus 45?", "Tom has 12 apples and eats 5. How many are left?",
    "Why is the sky blue?", "How come it rains?", "Write a haiku about the sea", "Write a poem about the sea.", "Give me a list of five animals.", "What is the opposite of hot?",
    "What colour is a banana?", "Which day comes after Tuesday?", "How do I make a cup of tea?", "Say hello in Spanish", "What's a volcano?", "Tell me a joke",
    "Write a Python function that adds two numbers.", "Give me JSON with the name and age of a person called Anna who is 31.", "Who will win the world cup?", "What is 14 + 29? Think step by step.",
    "Explain the theory of relativity", "Is water wet?", "What do cats eat?", "How many legs does a spider have?", "Count from 1 to 10.", "Thanks, bye!",
    "My friend Paul has a green bike. What colour is Paul's bike?", "Once upon a time"]]
CHATS += [
    (said("Hi, my name is Amelia.", "Hello, Amelia! Nice to meet you.", "What is 3 + 4?", "3 + 4 = 7.", "Do you still know my name?"), None),
    (said("What's the weather in Paris?"), WEATHER),
    (said("What's the weather in Paris?") + [CALL, {"role": "tool", "content": '{"temperature": 21, "condition": "sunny"}'}], WEATHER),
    (said("Is it raining in Buenos Aires right now?"), WEATHER),
    (said("Tell me a joke."), WEATHER),
    ([{"role": "system", "content": "You are a pirate."}] + said("Good morning, who are you?"), None),
]


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", default=str(Path(__file__).parent / "model"))
    args = p.parse_args()
    model, tok = load(args.model)
    print("| prompt | answer |\n| --- | --- |")
    for messages, tools in CHATS:
        prompt = tok.apply_chat_template(messages, tools=tools, add_generation_prompt=True)
        text = generate(model, tok, prompt, max_tokens=220)
        asked = messages[-1]["content"] + (" (with a weather tool)" if tools else "")
        print("| " + " | ".join(s.replace("\n", "<br>").replace("|", "\\|") for s in (asked, text)) + " |", flush=True)


if __name__ == "__main__":
    main()
