"""Small sums, numbers and JSON answers. Every function returns (question, answer)."""

import json

from .facts import ANIMALS, COUNTRIES, NUMBERS, words
from .questions import join
from .stories import BOYS, GIRLS, any_name

TENS = words("zero, ten, twenty, thirty, forty, fifty, sixty, seventy, eighty, ninety")


def in_words(n):
    if n <= 20:
        return NUMBERS[n]
    if n == 100:
        return "one hundred"
    return TENS[n // 10] + ("-" + NUMBERS[n % 10] if n % 10 else "")


def draw(rng):
    k = rng.random()
    if k < 0.4:
        op, a, b = "+", rng.randrange(0, 101), rng.randrange(0, 101)
        if rng.random() < 0.4:
            a, b = rng.randrange(0, 21), rng.randrange(0, 21)
        r = a + b
    elif k < 0.7:
        op, a = "-", rng.randrange(0, 101)
        b = rng.randrange(0, a + 1)
        if rng.random() < 0.3:
            a = rng.randrange(0, 21)
            b = rng.randrange(0, a + 1)
        r = a - b
    elif k < 0.93:
        op, a, b = "*", rng.randrange(0, 13), rng.randrange(0, 13)
        r = a * b
    else:
        op, b, r = "/", rng.randrange(1, 13), rng.randrange(0, 13)
        a = b * r
    return a, op, b, r


SIGN = {"+": ["+", "+", "+", "plus"], "-": ["-", "-", "-", "minus"], "*": ["*", "x", "×", "times"], "/": ["/", "divided by", "÷"]}


def arithmetic(rng):
    a, op, b, r = draw(rng)
    sign = rng.choice(SIGN[op])
    e = f"{a} {sign} {b}"
    if len(sign) == 1 and rng.random() < 0.2:
        e = f"{a}{sign}{b}"
    if sign.isalpha() and a <= 20 and b <= 20 and rng.random() < 0.3:
        e = f"{in_words(a)} {sign} {in_words(b)}"
    q = rng.choice(["What is {e}?", "What is {e}?", "What is {e}?", "What's {e}?", "{e}", "{e} = ?", "{e}=", "{e}?", "How much is {e}?", "Calculate {e}.", "Compute {e}.", "Can you compute {e}?", "Please calculate {e}.",
                    "Tell me what {e} is.", "Solve {e}.", "What do you get for {e}?", "What does {e} equal?"]).format(e=e)
    shown = {"*": "×", "/": "÷"}.get(op, op)
    return q[0].upper() + q[1:], f"{a} {shown} {b} = {r}."


def words_sum(rng):
    name = any_name(rng)
    o = rng.choice(words("apples, apples, cookies, books, coins, balls, pencils, cookies, stones, flowers, eggs, cards, marbles, oranges"))
    k = rng.randrange(4)
    girl = name in GIRLS
    he = "She" if girl else "He"
    if name not in GIRLS + BOYS:
        he = name
    more = rng.choice(["gets", "buys", "finds", "receives", "picks"])
    if k == 0:
        a, b = rng.randrange(1, 30), rng.randrange(1, 30)
        return f"{name} has {a} {o} and {more} {b} more. How many {o} does {name} have now?", f"{a} + {b} = {a + b}. {name} has {a + b} {o} now."
    if k == 1:
        a = rng.randrange(3, 40)
        b = rng.randrange(1, a)
        verb = rng.choice(["gives away", "eats", "loses", "sells", "uses", "drops", "throws away"])
        verb = "gives away" if verb == "eats" and o not in ("apples", "cookies", "eggs", "oranges") else verb
        ask = rng.choice([f"How many {o} are left?", "How many are left?", f"How many {o} does {name} have now?", f"How many {o} remain?"])
        return rng.choice([f"{name} has {a} {o}. {he} {verb} {b}. {ask}", f"{name} has {a} {o} and {verb} {b}. {ask}", f"{name} had {a} {o} and {verb} {b} of them. {ask}"]), f"{a} - {b} = {a - b}. There are {a - b} {o} left."
    if k == 2:
        a, b = rng.randrange(2, 11), rng.randrange(2, 11)
        return f"There are {a} boxes with {b} {o} each. How many {o} are there in all?", f"{a} × {b} = {a * b}. There are {a * b} {o} in all."
    a, b = rng.randrange(1, 20), rng.randrange(1, 20)
    other = rng.choice([n for n in GIRLS + BOYS if n != name])
    return f"{name} has {a} {o} and {other} has {b} {o}. How many do they have together?", f"{a} + {b} = {a + b}. Together they have {a + b} {o}."


def think(rng):
    """A sum with a short thought before the answer."""
    a, b = rng.randrange(6, 90), rng.randrange(3, 60)
    tens, ones = b // 10 * 10, b % 10
    steps = []
    if tens:
        steps.append(f"{a} + {tens} = {a + tens}")
    if ones:
        steps.append(f"{a + tens} + {ones} = {a + b}")
    q = rng.choice(["What is {a} + {b}? Think step by step.", "Think first: what is {a} + {b}?", "What is {a} + {b}? /think", "Think step by step: {a} + {b}", "Calculate {a} + {b}. Think before you answer.", "{a} + {b} /think"])
    if not steps:
        steps = [f"{a} + 0 = {a}"]
    thought = f"I add {b} to {a}. " + ", and ".join(steps) + "."
    return q.format(a=a, b=b), f"<think>\n{thought}\n</think>\n\n{a} + {b} = {a + b}."


def numbers(rng):
    k = rng.randrange(8)
    if k == 0:
        a, b = rng.sample(range(0, 120), 2)
        return rng.choice(["Which is bigger, {a} or {b}?", "Which number is larger: {a} or {b}?", "Is {a} bigger than {b}?"]).format(a=a, b=b), f"{max(a, b)} is bigger than {min(a, b)}."
    if k == 1:
        a, b = rng.sample(range(0, 120), 2)
        return rng.choice(["Which is smaller, {a} or {b}?", "Which number is smaller: {a} or {b}?"]).format(a=a, b=b), f"{min(a, b)} is smaller than {max(a, b)}."
    if k == 2:
        a = rng.randrange(0, 101)
        return rng.choice(["Is {a} even or odd?", "Is {a} an even number?", "Is {a} odd or even?"]).format(a=a), f"{a} is {'even' if a % 2 == 0 else 'odd'}."
    if k == 3:
        a = rng.randrange(0, 101)
        return rng.choice(["Write {a} in words.", "How do you write {a} as a word?", "Spell the number {a}."]).format(a=a), in_words(a).capitalize() + "."
    if k == 4:
        n, start = rng.randrange(3, 21), 1 if rng.random() < 0.7 else rng.randrange(2, 30)
        return rng.choice(["Count from {s} to {e}.", "Count to {e}." if start == 1 else "Count from {s} to {e}.", "List the numbers from {s} to {e}."]).format(s=start, e=start + n - 1), \
            ", ".join(str(i) for i in range(start, start + n))
    if k == 5:
        xs = rng.sample(range(0, 100), rng.randrange(3, 7))
        return rng.choice(["Sort these numbers: {x}", "Put these numbers in order: {x}", "Sort {x}."]).format(x=", ".join(map(str, xs))), ", ".join(map(str, sorted(xs)))
    if k == 6:
        a = rng.randrange(0, 100)
        return rng.choice(["What number comes after {a}?", "Which number comes after {a}?", "What comes next after {a}?"]).format(a=a), f"{a + 1} comes after {a}."
    step, start = rng.choice([1, 2, 5, 10]), rng.randrange(0, 20)
    xs = [start + step * i for i in range(4)]
    return rng.choice(["What comes next: {x}?", "Continue: {x}", "Which number comes next? {x}"]).format(x=", ".join(map(str, xs))), f"The next number is {start + step * 4}."


def json_answer(rng):
    k = rng.randrange(5)
    pretty = rng.random() < 0.25
    if k == 0:
        n, kind, young, sound, legs, home, food, fact = rng.choice(ANIMALS)
        keys = rng.sample(["name", "class", "legs", "food", "young"], rng.randrange(2, 5))
        d = {key: {"name": n, "class": kind, "legs": int(legs), "food": food, "young": young}[key] for key in keys}
        q = f"{{verb}} a JSON object with the {{keys}} of {'an' if n[0] in 'aeiou' else 'a'} {n}."
    elif k == 1:
        c = rng.choice(COUNTRIES)
        keys = rng.sample(["country", "capital", "continent", "language"], rng.randrange(2, 4))
        d = {key: dict(country=c[0].replace("the ", ""), capital=c[1], continent=c[2], language=c[3])[key] for key in keys}
        q = f"{{verb}} a JSON object with the {{keys}} of {c[0]}."
    elif k == 2:
        name, age, city = any_name(rng), rng.randrange(3, 99), rng.choice(COUNTRIES)[1]
        d = {"name": name, "age": age, "city": city}
        q = rng.choice([f"{name} is {age} years old and lives in {city}. Write this as JSON.", f"Turn this into JSON: {name} is {age} years old and lives in {city}.",
                        f"Extract name, age and city as JSON: {name}, {age} years old, lives in {city}.", f"Give me JSON for a person named {name}, age {age}, from {city}."])
    elif k == 3:
        name, age = rng.choice(GIRLS + BOYS), rng.randrange(5, 80)
        d = {"name": name, "age": age}
        if rng.random() < 0.5:
            d["city"] = rng.choice(COUNTRIES)[1]
        q = f"{{verb}} a JSON object for a person with {join(list(d))}."
    else:
        a, op, b, r = draw(rng)
        d = {"a": a, "b": b, "result": r}
        q = f"What is {a} {op} {b}? Answer with JSON with the keys a, b and result."
    q = q.replace("{verb}", rng.choice(["Give me", "Write", "Return", "Make", "Show me"])).replace("{keys}", join(list(d)))
    return q, json.dumps(d, ensure_ascii=False, indent=2 if pretty else None)
