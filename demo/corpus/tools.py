"""Conversations with tools: a list of tools, a call, a result, and an answer that uses the result."""

import json

from .facts import COUNTRIES, words
from .questions import capital, cap
from .stories import any_name, made_up_name
from .sums import arithmetic, draw

CITIES = [c[1] for c in COUNTRIES] + words("""New York, Barcelona, Munich, Hamburg, Milan, Sydney, Mumbai, Shanghai, Istanbul, Boston, Chicago, Toronto, Lyon, Porto, Geneva,
Venice, Oxford, San Francisco, Los Angeles, Seattle, Cologne, Zurich, Kyoto, Osaka, Naples, Florence, Marseille, Rio de Janeiro, Dubai, Singapore""")
SKIES = words("sunny, cloudy, rainy, windy, snowy, foggy, clear, stormy")


def tool(name, text, /, **props):
    """One tool in the layout that chat programs use; props: name=(type, description)."""
    return {"type": "function", "function": {"name": name, "description": text, "parameters": {
        "type": "object", "properties": {k: ({"type": t, "description": d} if d else {"type": t}) for k, (t, d) in props.items()}, "required": list(props)}}}


def weather(rng):
    key, name = rng.choice(["city", "city", "city", "location", "place"]), rng.choice(["get_weather", "get_weather", "get_weather", "get_current_weather", "weather"])
    text = rng.choice(["Get the weather of a city.", "Get the current weather", "Returns the weather for a place", "Get the weather for a city", "Gets the current weather in a given city."])
    city = rng.choice(CITIES) if rng.random() < 0.9 else made_up_name(rng)
    temp, sky = rng.randrange(-10, 40), rng.choice(SKIES)
    q = rng.choice(["What is the weather in {c}?", "What is the weather like in {c}?", "How is the weather in {c} today?", "Weather in {c}?", "What's the weather in {c}?", "Tell me the weather in {c}.", "Is it warm in {c}?",
                    "Do I need a coat in {c} today?", "Can you check the weather in {c}?", "How warm is it in {c}?", "Will it rain in {c}?", "I am going to {c}. How is the weather there?"]).format(c=city)
    tkey, skey = rng.choice(["temperature", "temperature", "temp", "temp_c", "temperature_c"]), rng.choice(["condition", "sky", "conditions", "weather", "description"])
    result = rng.choice([json.dumps({tkey: temp, skey: sky}), json.dumps({skey: sky, tkey: temp}), json.dumps({key: city, tkey: temp, skey: sky}, ensure_ascii=False), f"{sky}, {temp} degrees", f"{temp}°C, {sky}", f"{cap(sky)}, {temp} C"])
    answer = f"The weather in {city} is {sky}, with {temp} degrees."
    if rng.random() < 0.12:
        result, answer = json.dumps({tkey: temp}), f"It is {temp} degrees in {city}."
    return tool(name, text, **{key: ("string", rng.choice(["", "The name of the city", "Name of the city"]))}), q, {key: city}, result, answer


def clock(rng):
    key, name = rng.choice(["city", "city", "location", "timezone"]), rng.choice(["get_time", "get_time", "get_current_time", "time"])
    city = rng.choice(CITIES)
    t = f"{rng.randrange(24):02}:{rng.randrange(60):02}"
    q = rng.choice(["What time is it in {c}?", "What is the time in {c}?", "Tell me the time in {c}.", "How late is it in {c}?", "Can you tell me what time it is in {c}?", "What's the time in {c} now?"]).format(c=city)
    result = rng.choice([json.dumps({"time": t}), t, json.dumps({key: city, "time": t}, ensure_ascii=False)])
    return tool(name, rng.choice(["Get the time in a city.", "Get the current time", "Returns the time at a place"]), **{key: ("string", rng.choice(["", "The city"]))}), q, {key: city}, result, f"It is {t} in {city}."


def calculate(rng):
    a, b = rng.randrange(10, 2000), rng.randrange(10, 2000)
    op = rng.choice("+-*")
    r = {"+": a + b, "-": a - b, "*": a * b}[op]
    if rng.random() < 0.5:
        q = rng.choice(["What is {e}?", "Calculate {e}.", "Compute {e}, please."]).format(e=f"{a} {op} {b}")
        return tool(rng.choice(["calculate", "calculator", "evaluate"]), "Calculate an expression.", expression=("string", rng.choice(["", "The expression"]))), q, {"expression": f"{a} {op} {b}"}, \
            rng.choice([str(r), json.dumps({"result": r})]), f"{a} {op} {b} = {r}."
    name, q = rng.choice([("add", "Add {a} and {b}."), ("add", "What is {a} plus {b}?"), ("add_numbers", "Please add {a} and {b}.")])
    r = a + b
    return tool(name, "Add two numbers.", a=("number", ""), b=("number", "")), q.format(a=a, b=b), {"a": a, "b": b}, rng.choice([str(r), json.dumps({"result": r})]), f"{a} + {b} = {r}."


def timer(rng):
    n = rng.randrange(1, 60)
    key = rng.choice(["minutes", "minutes", "duration"])
    return tool(rng.choice(["set_timer", "start_timer"]), rng.choice(["Start a timer.", "Set a timer for some minutes"]), **{key: ("integer", "")}), \
        rng.choice(["Set a timer for {n} minutes.", "Please start a timer of {n} minutes.", "Wake me in {n} minutes.", "Timer for {n} minutes"]).format(n=n), {key: n}, \
        rng.choice(['{"status": "ok"}', "ok", "Timer started"]), f"The timer is set for {n} minutes."


def light(rng):
    room, state = rng.choice(words("kitchen, bedroom, bathroom, living room, hall, garage, garden")), rng.choice(["on", "off"])
    return tool(rng.choice(["set_light", "switch_light"]), "Switch the light of a room on or off.", room=("string", ""), state=("string", "on or off")), \
        rng.choice(["Turn {s} the light in the {r}.", "Switch the {r} light {s}.", "Please turn the {r} light {s}.", "Light {s} in the {r}!"]).format(s=state, r=room), {"room": room, "state": state}, \
        rng.choice(['{"status": "ok"}', "done", '{"ok": true}']), f"The light in the {room} is now {state}."


def message(rng):
    who, text = any_name(rng), rng.choice(["I am late", "Happy birthday!", "See you tomorrow", "Dinner is ready", "Good luck!", "Call me back", "I am on my way"])
    return tool(rng.choice(["send_message", "send_mail"]), "Send a message to a person.", to=("string", ""), text=("string", "")), \
        rng.choice(["Send {w} a message: {t}", "Tell {w}: {t}", "Write to {w}: {t}", "Send the message \"{t}\" to {w}."]).format(w=who, t=text), {"to": who, "text": text}, \
        rng.choice(['{"sent": true}', "sent", "ok"]), f"I sent your message to {who}."


def search(rng):
    topic = rng.choice(words("train tickets, pizza recipes, the news, football results, cheap flights, hotels in Rome, good books, jazz music, running shoes, garden tools, mlxrt, bird songs"))
    key = rng.choice(["query", "query", "q"])
    hits = rng.randrange(1, 30)
    return tool(rng.choice(["search", "web_search", "search_web"]), rng.choice(["Search the web.", "Search the internet"]), **{key: ("string", "")}), \
        rng.choice(["Search for {t}.", "Find {t}.", "Look up {t}.", "Search the web for {t}."]).format(t=topic), {key: topic}, json.dumps({"results": hits}), f"I found {hits} results for {topic}."


def price(rng):
    thing, n = rng.choice(words("apple, book, bread, coffee, phone, lamp, bicycle, ticket, chair, cake, gold, hat")), rng.randrange(1, 200)
    key = rng.choice(["item", "product", "name"])
    return tool(rng.choice(["get_price", "price_of"]), "Get the price of an item.", **{key: ("string", "")}), rng.choice(["What is the price of {t}?", "How much does {t} cost?", "Price of {t}?"]).format(t=thing), \
        {key: thing}, rng.choice([json.dumps({"price": n}), f"{n} euros"]), f"The price of {thing} is {n} euros."


def lookup(rng):
    """A tool with a made-up name, so that the name is copied and not remembered."""
    noun = rng.choice(words("user, order, contact, song, file, room, ticket, planet, recipe, account"))
    key = rng.choice(["id", "name", "number", "key", f"{noun}_id"])
    value = rng.choice([rng.randrange(1, 999), made_up_name(rng), any_name(rng)])
    verb = rng.choice(["find", "get", "fetch", "lookup", "show", "open", "read"])
    state = rng.choice(words("ready, open, closed, new, busy, free, found, active"))
    return tool(f"{verb}_{noun}", f"{cap(verb)} a {noun}.", **{key: ("integer" if isinstance(value, int) else "string", "")}), \
        rng.choice(["{V} {n} {x}.", "Please {v} the {n} {x}.", "{V} the {n} with the {k} {x}.", "What is the status of {n} {x}?"]).format(V=cap(verb), v=verb, n=noun, x=value, k=key), {key: value}, \
        json.dumps({"status": state}), f"The status of {noun} {value} is {state}."


KINDS = [weather, weather, weather, clock, clock, calculate, timer, light, message, search, price, lookup]


def tool_chat(rng, chat_turn):
    """(tools, messages). `chat_turn` gives an exchange that needs no tool."""
    kinds = list(dict.fromkeys(rng.sample(KINDS, len(KINDS))))[: rng.choice([1, 1, 2, 2, 3, 4])]
    drawn = [k(rng) for k in kinds]
    tools = [d[0] for d in drawn]
    messages = []
    for _ in range(rng.choice([1, 1, 1, 2, 2, 3])):
        k = rng.random()
        if k < 0.22:
            q, a = chat_turn(rng)
            messages += [{"role": "user", "content": q}, {"role": "assistant", "content": a}]
            continue
        i = rng.randrange(len(kinds))
        use = [(drawn[i][0], *drawn[i][1:])]
        if k > 0.9 and kinds[i] in (weather, clock):
            use.append(_again(rng, kinds[i], use[0]))
        question = use[0][1] if len(use) == 1 else _both(kinds[i], use)
        messages.append({"role": "user", "content": question})
        messages.append({"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "function": {"name": u[0]["function"]["name"], "arguments": u[2]}} for u in use]})
        if k < 0.3:
            bad = rng.choice(["error", "not found", "unavailable", "timeout"])
            messages += [{"role": "tool", "content": rng.choice([json.dumps({"error": bad}), f"error: {bad}"])} for _ in use]
            messages.append({"role": "assistant", "content": "I am sorry, the tool did not give me an answer."})
        else:
            messages += [{"role": "tool", "content": u[3]} for u in use]
            messages.append({"role": "assistant", "content": " ".join(u[4] for u in use)})
        drawn[i] = _again(rng, kinds[i], drawn[i])
    rng.shuffle(tools)
    return tools, messages


def _again(rng, kind, old):
    """Another use of the same tool: its name and argument names stay."""
    names = list(old[2])
    while True:
        new = kind(rng)
        if new[0]["function"]["name"] == old[0]["function"]["name"] and list(new[2]) == names and new[2] != old[2] and list(map(type, new[2].values())) == list(map(type, old[2].values())):
            return (old[0], *new[1:])


def _both(kind, use):
    a, b = (list(u[2].values())[0] for u in use)
    return f"What is the weather in {a} and in {b}?" if kind is weather else f"What time is it in {a} and in {b}?"
