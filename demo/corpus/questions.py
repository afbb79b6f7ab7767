"""Questions and answers made from the facts. Every function returns (question, answer)."""

from . import explain
from .facts import (ANIMALS, CATEGORIES, COLOURS, COUNTRIES, DAYS, MONTHS, MONTH_DAYS, NUMBERS, OPPOSITES, ORDINALS, PAST, PLANETS,
                    PLURALS, RHYMES, SEASONS, SYNONYMS, TRANSLATIONS, words)
from .stories import any_name, article, made_up_word


def cap(s):
    return s[:1].upper() + s[1:]


def join(items, last="and"):
    return items[0] if len(items) == 1 else ", ".join(items[:-1]) + f" {last} " + items[-1]


def capital(rng):
    country, city, continent, language = rng.choice(COUNTRIES)
    possessive = country + ("'" if country.endswith("s") else "'s")
    kind = rng.random()
    if kind < 0.6:
        q = rng.choice(["What is the capital of {c}?", "What is the capital of {c}?", "What's the capital of {c}?", "Which city is the capital of {c}?", "Tell me the capital of {c}.", "Name the capital of {c}.",
                        "What is {p} capital?", "Do you know the capital of {c}?", "{c}: what is the capital?", "The capital of {c} is", "Can you tell me the capital of {c}?", "What city is the capital of {c}?",
                        "I forgot the capital of {c}. What is it?"])
        a = rng.choice(["The capital of {c} is {t}.", "The capital of {c} is {t}.", "The capital of {c} is {t}.", "{t} is the capital of {c}."])
    elif kind < 0.72:
        q = rng.choice(["{t} is the capital of which country?", "Which country has the capital {t}?", "Where is {t}?", "In which country is {t}?", "What country is {t} in?"])
        c = "the United States" if city.startswith("Wash") else "the United Kingdom" if city == "London" else country
        return q.format(t=city), f"{city} is the capital of {c}."
    elif kind < 0.87:
        q = rng.choice(["Where is {c}?", "On which continent is {c}?", "Which continent is {c} in?", "In which part of the world is {c}?"])
        a = cap(country) + (" is partly in Europe and partly in Asia." if "and" in continent else f" is in {continent}.")
        return q.format(c=country), a.replace("the Philippines is", "the Philippines are").replace("The Philippines is", "The Philippines are")
    else:
        q = rng.choice(["What language do people speak in {c}?", "Which language is spoken in {c}?", "What is the language of {c}?", "What do they speak in {c}?"])
        return q.format(c=country), f"In {country} people speak {language}."
    fill = dict(c=country, p=possessive, t=city)
    return cap(q.format(**fill)), cap(a.format(**fill))


def animal(rng):
    name, kind, young, sound, legs, home, food, fact = rng.choice(ANIMALS)
    a_name = article(name)
    plural = {"mouse": "mice", "wolf": "wolves", "goose": "geese", "fox": "foxes", "fish": "fish", "sheep": "sheep", "deer": "deer", "butterfly": "butterflies", "fly": "flies", "donkey": "donkeys",
              "monkey": "monkeys", "turkey": "turkeys", "salmon": "salmon", "ostrich": "ostriches", "octopus": "octopuses", "hippo": "hippos"}.get(name, name + "s")
    legs_word = {"10": "ten"}.get(legs) or NUMBERS[int(legs)]
    f = dict(n=name, a=a_name, p=plural)
    pick = rng.randrange(8)
    silent = "no sound" in sound
    if pick == 0 and not silent:
        return rng.choice(["What sound does {a} make?", "What noise does {a} make?", "What does {a} say?", "How does {a} sound?"]).format(**f), \
            cap(a_name) + f" {sound}."
    if pick == 1:
        q = rng.choice(["Where do {p} live?", "Where does {a} live?", "What is the home of {a}?", "Where can I find {p}?"])
        return q.format(**f), f"{cap(plural)} live {home}."
    if pick == 2:
        q = rng.choice(["What do {p} eat?", "What does {a} eat?", "What is the food of {a}?", "What do {p} like to eat?"])
        return q.format(**f), f"{cap(plural)} eat {food}."
    if pick == 3:
        q = rng.choice(["What is a baby {n} called?", "What do you call a baby {n}?", "What is the young of {a} called?", "What's the name for a young {n}?"])
        return q.format(**f), f"A baby {name} is called {article(young)}."
    if pick == 4:
        q = rng.choice(["How many legs does {a} have?", "How many legs do {p} have?", "How many legs has {a}?"])
        if name == "octopus":
            return q.format(**f), "An octopus has eight arms."
        return q.format(**f), f"{cap(a_name)} has {'no' if legs == '0' else legs_word} legs."
    if pick == 5:
        q = rng.choice(["What kind of animal is {a}?", "Is {a} a mammal?", "Is {a} a bird?", "Is {a} an insect?", "Is {a} a fish?", "Is {a} a reptile?"])
        is_a = f"{a_name} is {article(kind)}"
        if q.startswith("What"):
            return q.format(**f), cap(is_a) + "."
        asked = q.split()[-1].rstrip("?")
        if name == kind:
            return f"Is {a_name} an animal?", f"Yes, {a_name} is an animal that lives in water."
        return q.format(**f), ("Yes, " if asked == kind else "No, ") + is_a + "."
    q = rng.choice(["Tell me about {p}.", "What is {a}?", "Tell me something about {p}.", "Tell me a fact about {p}.", "What do you know about {p}?", "Describe {a}.", "Write a sentence about {p}.",
                    "Tell me about the {n}."])
    if name == "fish":
        return q.format(**f), "A fish is an animal that lives in water. " + fact
    return q.format(**f), f"{cap(a_name)} is {article(kind)} that lives {home}. {fact}"


def colour(rng):
    thing, col, verb = rng.choice(COLOURS)
    q = rng.choice(["What colour {v} {t}?", "What color {v} {t}?", "Which colour {v} {t}?", "Tell me the colour of {t}.", "What is the colour of {t}?", "What is the color of {t}?"])
    return q.format(v=verb, t=thing), f"{cap(thing)} {verb} {col}."


def opposite(rng):
    a, b = rng.choice(OPPOSITES)
    if rng.random() < 0.4 and [x for x, _ in OPPOSITES].count(b) == 0:
        a, b = b, a
    q = rng.choice(["What is the opposite of {a}?", "What is the opposite of \"{a}\"?", "Opposite of {a}?", "Tell me the opposite of {a}.", "Give me the opposite of \"{a}\".", "What's the opposite of {a}?",
                    "What is the antonym of {a}?", "Which word means the opposite of {a}?"])
    quote = rng.random() < 0.3
    w = '"%s"' if quote else "%s"
    return q.format(a=a), f"The opposite of {w % a} is {w % b}."


def synonym(rng):
    a, b = rng.choice(SYNONYMS)
    q = rng.choice(["What is a synonym for {a}?", "Give me another word for {a}.", "What is another word for \"{a}\"?", "Which word means the same as {a}?", "What does \"{a}\" mean?", "Tell me a synonym of {a}."])
    return q.format(a=a), f"Another word for \"{a}\" is \"{b}\"."


def plural(rng):
    a, b = rng.choice(PLURALS)
    if rng.random() < 0.2:
        return rng.choice(["What is the singular of {b}?", "What is the singular of \"{b}\"?"]).format(b=b), f"The singular of \"{b}\" is \"{a}\"."
    q = rng.choice(["What is the plural of {a}?", "What is the plural of \"{a}\"?", "Plural of {a}?", "Give me the plural of {a}.", "How do you write more than one {a}?", "What's the plural form of {a}?"])
    return q.format(a=a), f"The plural of \"{a}\" is \"{b}\"."


def past(rng):
    a, b = rng.choice(PAST)
    q = rng.choice(["What is the past tense of {a}?", "What is the past tense of \"{a}\"?", "Past tense of {a}?", "What is the past of to {a}?", "Give me the past tense of {a}."])
    return q.format(a=a), f"The past tense of \"{a}\" is \"{b}\"."


def translate(rng):
    row = rng.choice(TRANSLATIONS)
    i = rng.randrange(1, 5)
    lang = ["French", "Spanish", "German", "Italian"][i - 1]
    q = rng.choice(["How do you say {w} in {l}?", "How do you say \"{w}\" in {l}?", "What is {w} in {l}?", "Translate \"{w}\" into {l}.", "Translate {w} to {l}.", "What is the {l} word for {w}?", "{W} in {l}?"])
    return q.format(w=row[0], W=cap(row[0]), l=lang), f"\"{cap(row[0])}\" in {lang} is \"{row[i]}\"."


def calendar(rng):
    k = rng.randrange(8)
    if k < 2:
        i = rng.randrange(7)
        if k == 0:
            return rng.choice(["What day comes after {d}?", "Which day comes after {d}?", "Which day follows {d}?", "If today is {d}, what day is tomorrow?", "Today is {d}. What day is it tomorrow?"]).format(d=DAYS[i]), \
                f"{DAYS[(i + 1) % 7]} comes after {DAYS[i]}."
        return rng.choice(["What day comes before {d}?", "Which day is before {d}?", "If today is {d}, what day was yesterday?"]).format(d=DAYS[i]), f"{DAYS[i - 1]} comes before {DAYS[i]}."
    i = rng.randrange(12)
    m = MONTHS[i]
    if k == 2:
        return rng.choice(["What month comes after {m}?", "Which month follows {m}?", "Which month comes after {m}?"]).format(m=m), f"{MONTHS[(i + 1) % 12]} comes after {m}."
    if k == 3:
        return rng.choice(["What month comes before {m}?", "Which month is before {m}?"]).format(m=m), f"{MONTHS[i - 1]} comes before {m}."
    if k == 4:
        extra = ", and 29 in a leap year" if i == 1 else ""
        return rng.choice(["How many days does {m} have?", "How many days are in {m}?", "How long is {m}?"]).format(m=m), f"{m} has {MONTH_DAYS[i]} days{extra}."
    if k == 5:
        return rng.choice(["What is the {o} month of the year?", "Which month is the {o} month?", "Name the {o} month."]).format(o=ORDINALS[i]), f"{m} is the {ORDINALS[i]} month of the year."
    if k == 6:
        j = rng.randrange(4)
        return rng.choice(["What season comes after {s}?", "Which season follows {s}?"]).format(s=SEASONS[j]), f"{cap(SEASONS[(j + 1) % 4])} comes after {SEASONS[j]}."
    j = rng.randrange(8)
    return rng.choice(["What is the {o} planet from the sun?", "Which planet is the {o} from the sun?", "Name the {o} planet."]).format(o=ORDINALS[j]), f"{PLANETS[j]} is the {ORDINALS[j]} planet from the sun."


def why(rng):
    qs, a = rng.choice(explain.WHY)
    q = rng.choice(qs)
    if rng.random() < 0.25 and q.endswith("?"):
        low = q[0].lower() + q[1:]
        q = rng.choice(["Can you tell me: {q}", "I want to know: {q}", "Question: {q}", "Please tell me, {q}", "Hey, {q}", "My son asks: {q}", "Do you know? {Q}"]).format(q=low, Q=q)
    elif rng.random() < 0.15 and q.startswith("Why "):
        q = "Explain w" + q[1:].rstrip("?") + "."
    return q, a


def define(rng):
    noun, text = rng.choice(explain.DEFINITIONS)
    if rng.random() < 0.12:
        return rng.choice(["What is {t} called?", "What do you call {t}?"]).format(t=text), f"It is called {article(noun)}."
    q = rng.choice(["What is {a}?", "What is {a}?", "What's {a}?", "Explain what {a} is.", "What does \"{n}\" mean?", "Define {n}.", "Can you explain what {a} is?", "What does the word {n} mean?", "Tell me what {a} is.",
                    "Who is {a}?" if "person" in text else "Describe {a}.", "Explain the word {n}."])
    return q.format(a=article(noun), n=noun), f"{cap(article(noun))} is {text}."


def how_to(rng):
    qs, a = rng.choice(explain.HOWTO)
    return rng.choice(qs), a


def feeling(rng):
    qs, a = rng.choice(explain.FEELINGS)
    return rng.choice(qs), a


def joke(rng):
    q, a = rng.choice(explain.JOKES)
    ask = rng.choice(["Tell me a joke.", "Tell me a joke!", "Do you know a joke?", "Make me laugh.", "Can you tell me a joke?", "A joke, please.", "Say something funny.", "Another joke!", "Tell me a funny joke.", "joke"])
    return ask, f"{q} {a}"


def riddle(rng):
    q, a = rng.choice(explain.RIDDLES)
    if rng.random() < 0.5:
        return q, a
    return rng.choice(["Tell me a riddle.", "Do you know a riddle?", "Give me a riddle.", "A riddle, please."]), f"Here is a riddle: {q} The answer: {a[0].lower() + a[1:]}"


def fun_fact(rng):
    return rng.choice(["Tell me a fun fact.", "Tell me something interesting.", "Do you know a fun fact?", "Give me a fun fact.", "Tell me something.", "Surprise me.", "Tell me an interesting fact.", "Teach me something."]), \
        rng.choice(["", "Did you know? ", "Here is one: "]) + rng.choice(explain.FUN_FACTS)


def listing(rng):
    kind, items = rng.choice(CATEGORIES)
    n = rng.randrange(2, min(len(items), 8) + 1)
    if rng.random() < 0.5:
        n = min(3, len(items))
    chosen = rng.sample(items, n)
    if kind in ("planets", "seasons", "days of the week", "months"):
        chosen = items[:n]
    num = rng.choice([NUMBERS[n], str(n)])
    q = rng.choice(["Name {n} {k}.", "List {n} {k}.", "Give me {n} {k}.", "Tell me {n} {k}.", "Can you name {n} {k}?", "Name {n} {k}, please.", "Write a list of {n} {k}.", "What are {n} {k}?", "I need {n} {k}."]).format(n=num, k=kind)
    style = rng.random()
    if style < 0.3:
        return q.rstrip(".?") + " as a numbered list.", "\n".join(f"{i}. {cap(x)}" for i, x in enumerate(chosen, 1))
    if style < 0.5:
        return q.rstrip(".?") + rng.choice([" as a list.", " as bullet points.", " in a list."]), "\n".join(f"- {cap(x)}" for x in chosen)
    if style < 0.75:
        noun = kind if n > 1 else kind
        return q, f"{cap(NUMBERS[n])} {noun} are {join(chosen)}."
    if q.startswith(("Write", "List")):
        return q, "\n".join(f"{i}. {cap(x)}" for i, x in enumerate(chosen, 1))
    return q, cap(join(chosen)) + "."


def member(rng):
    kind, items = rng.choice(CATEGORIES[:30])
    if rng.random() < 0.5:
        x = rng.choice(items)
        others = [c for c in CATEGORIES[:30] if x in c[1]]
        if len(others) == 1 and kind[-1] == "s" and kind not in ("clothes", "kitchen things", "rooms in a house", "cities", "European countries", "countries", "body parts"):
            single = kind[:-3] + "y" if kind.endswith("ies") else kind[:-1]
            if rng.random() < 0.5:
                return f"Is {article(x)} {article(single)}?", f"Yes, {article(x)} is {article(single)}."
    a, b = rng.sample(["fruits", "colours", "sports", "musical instruments", "vehicles", "vegetables", "drinks", "flowers"], 2)
    cat = dict(CATEGORIES)
    odd = rng.choice(cat[a])
    rest = rng.sample([x for x in cat[b] if x not in cat[a]], 3)
    four = rest + [odd]
    rng.shuffle(four)
    if odd in cat[b]:
        return listing(rng)
    return rng.choice(["Which word does not belong: {w}?", "Which one is different: {w}?", "Find the odd one out: {w}."]).format(w=join(four, "or")), f"\"{cap(odd)}\" does not belong, because the others are {b}."


def rhyme(rng):
    w, r = rng.choice(RHYMES)
    if rng.random() < 0.4:
        return rng.choice(["Give me words that rhyme with {w}.", "Which words rhyme with {w}?", "List rhymes for {w}."]).format(w=w), f"{cap(join(r))} rhyme with \"{w}\"."
    x = rng.choice(r)
    return rng.choice(["What rhymes with {w}?", "Give me a rhyme for {w}.", "Which word rhymes with \"{w}\"?", "Find a rhyme for {w}.", "Tell me a word that rhymes with {w}."]).format(w=w), f"\"{cap(x)}\" rhymes with \"{w}\"."


SPELL = sorted({w for w, *_ in ANIMALS if " " not in w} | set(words("""apple, house, water, green, yellow, school, friend, happy, winter, summer, flower, garden, music, letter, bread,
table, chair, window, river, planet, rocket, cheese, orange, purple, sugar, hello, world, rust, apple, model, story, poem, light, night, stone, cloud""")))


YES = words("""Is water wet?, Is fire hot?, Is ice cold?, Is the Earth round?, Is the sun a star?, Is snow white?, Is grass green?, Is the sky blue?, Can birds fly?, Can fish swim?, Is honey sweet?,
Is a lemon sour?, Can dogs swim?, Is Paris in France?, Is London in England?, Is Rome in Italy?, Do cats like fish?, Do bees make honey?, Is the sun hot?, Is space big?, Do plants need water?, Is reading good for you?,
Is sugar sweet?, Can frogs jump?, Is gold a metal?, Is July in summer?, Do people need sleep?, Is milk white?, Do fish live in water?""")
NO = words("""Can pigs fly?, Is the moon made of cheese?, Can fish walk?, Is the Earth flat?, Is fire cold?, Is ice hot?, Do cows lay eggs?, Is the sun cold?, Can stones swim?, Do snakes have legs?, Is Paris in Germany?,
Can cats read?, Is a tomato blue?, Is grass red?, Do trees walk?, Can elephants fly?, Is the sea dry?, Is snow black?, Can dogs speak?, Do chairs eat?, Is the moon a star?, Can penguins fly?""")


def yes_no(rng):
    """Short questions with a yes or a no."""
    k = rng.random()
    if k < 0.4:
        return rng.choice(YES), rng.choice(["Yes.", "Yes, that is right."])
    if k < 0.7:
        return rng.choice(NO), rng.choice(["No.", "No, that is not so."])
    thing, col, verb = rng.choice([c for c in COLOURS if " " not in c[1]])
    asked = col if rng.random() < 0.5 else rng.choice(words("red, blue, green, yellow, white, black, pink"))
    return f"{cap(verb)} {thing} {asked}?", f"{'Yes' if asked == col else 'No'}, {thing} {verb} {col}."


def word_play(rng):
    w = rng.choice(SPELL)
    k = rng.randrange(9)
    if k == 0:
        return rng.choice(["Spell {w}.", "Spell the word {w}.", "How do you spell {w}?", "Spell \"{w}\"."]).format(w=w), "-".join(w.upper())
    if k == 1:
        return rng.choice(["How many letters are in {w}?", "How many letters does the word \"{w}\" have?", "How many letters are in the word {w}?"]).format(w=w), f"The word \"{w}\" has {len(w)} letters."
    if k == 2:
        return rng.choice(["What is the first letter of {w}?", "With which letter does \"{w}\" begin?"]).format(w=w), f"The first letter of \"{w}\" is {w[0].upper()}."
    if k == 3:
        return rng.choice(["What is the last letter of {w}?", "With which letter does \"{w}\" end?"]).format(w=w), f"The last letter of \"{w}\" is {w[-1].upper()}."
    if k == 4:
        return rng.choice(["Write {w} in capital letters.", "Write \"{w}\" in upper case.", "Make {w} upper case."]).format(w=w), w.upper()
    if k == 5:
        i = rng.randrange(25)
        a, b = chr(65 + i), chr(66 + i)
        return rng.choice(["Which letter comes after {a}?", "What letter comes after {a} in the alphabet?"]).format(a=a), f"{b} comes after {a} in the alphabet."
    if k == 6:
        n = rng.randrange(2, 6)
        return f"Say {w} {NUMBERS[n]} times.", " ".join([w] * n)
    if k == 7 and rng.random() < 0.6:
        s = " ".join(rng.choice([made_up_word(rng), rng.choice(SPELL), any_name(rng)]) for _ in range(rng.randrange(1, 6)))
        return rng.choice(["Repeat after me: {s}", "Say: {s}", "Repeat: {s}", "Copy this text: {s}", "Say {s}", "Echo: {s}"]).format(s=s), s
    if k == 7:
        s = rng.choice(["I like {w}.", "The {w} is here.", "Hello, {w}!", "Good morning, dear {w}.", "We see a {w}.", "{w}, {w}, {w}", "My {w} is blue."]).format(w=w)
        return rng.choice(["Repeat after me: {s}", "Say: {s}", "Please repeat: {s}", "Repeat this sentence: {s}", "Copy this text: {s}"]).format(s=s), s
    ws = rng.sample(SPELL, rng.choice([3, 4]))
    return rng.choice(["Sort these words: {w}", "Put these words in alphabetical order: {w}"]).format(w=", ".join(ws)), ", ".join(sorted(ws))


def sentence(rng):
    """Use a word in a sentence; say whether a sentence is happy or sad."""
    if rng.random() < 0.5:
        noun, text = rng.choice(explain.DEFINITIONS)
        s = rng.choice(["The {n} was very old.", "Yesterday I saw {a}.", "There is {a} in our town.", "My sister likes the {n}.", "I dreamed of {a} last night.", "We talked about the {n} all day."])
        return rng.choice(["Use the word {n} in a sentence.", "Write a sentence with the word \"{n}\".", "Make a sentence with {n}.", "Give me an example sentence with \"{n}\"."]).format(n=noun), s.format(n=noun, a=article(noun))
    good = rng.random() < 0.5
    s = rng.choice(["I won the race!", "What a wonderful day!", "I love this book.", "The food was great.", "My friend gave me a present.", "The sun is shining and I am on holiday.", "This is the best film ever."] if good else
                   ["I lost my key.", "It rained all day and I was alone.", "The food was terrible.", "My dog is sick.", "I failed my test.", "This is the worst film ever.", "Nobody came to my party."])
    if rng.random() < 0.5:
        return rng.choice(["Is this sentence happy or sad? {s}", "Happy or sad: {s}", "Does this sound happy or sad? {s}"]).format(s=s), "It sounds happy." if good else "It sounds sad."
    return rng.choice(["Is this review positive or negative? {s}", "Classify the sentiment: {s}", "Positive or negative? {s}"]).format(s=s), "Positive." if good else "Negative."


def reading(rng):
    """A question about a short text that stands in the prompt."""
    people = [any_name(rng), any_name(rng)]
    colours = rng.sample(words("red, blue, green, yellow, white, black, brown, pink"), 2)
    objects = rng.sample(words("ball, hat, bike, kite, book, coat, bag, cup, boat, scarf"), 2)
    cities = rng.sample([c[1] for c in COUNTRIES], 2)
    pets = rng.sample(words("dog, cat, horse, rabbit, parrot, mouse, frog, goat"), 2)
    nums = rng.sample(range(2, 12), 2)
    facts = []
    for p, c, o, t, pet, n in zip(people, colours, objects, cities, pets, nums):
        options = [
            (f"{p} has a {c} {o}.", [(f"What colour is {p}'s {o}?", f"{p}'s {o} is {c}."), (f"Who has a {c} {o}?", f"{p} has a {c} {o}.")]),
            (f"{p} lives in {t}.", [(f"Where does {p} live?", f"{p} lives in {t}."), (f"Who lives in {t}?", f"{p} lives in {t}.")]),
            (f"{p} has a {pet}.", [(f"What pet does {p} have?", f"{p} has a {pet}."), (f"Who has a {pet}?", f"{p} has a {pet}.")]),
            (f"{p} is {n} years old.", [(f"How old is {p}?", f"{p} is {n} years old.")]),
        ]
        facts += rng.sample(options, rng.choice([1, 2]))
    rng.shuffle(facts)
    text = " ".join(f[0] for f in facts)
    q, a = rng.choice(rng.choice(facts)[1])
    return rng.choice(["{t} {q}", "{t}\n\n{q}", "Read this: {t}\n{q}", "Text: {t}\nQuestion: {q}", "{t} Question: {q}"]).format(t=text, q=q), a


def code(rng):
    what, lang, text = rng.choice(explain.CODE)
    noun = rng.choice(["program", "function", "code", "piece of code"]) if "hello" not in what and "counts" not in what else "program"
    a = "" if noun == "code" else "a "
    q = rng.choice(["Write {a}{n} in {l} that {w}.", "Write {a}{l} {n} that {w}.", "Show me {a}{n} in {l} that {w}.", "How do I write {a}{n} in {l} that {w}?", "Give me {a}{l} {n} that {w}.", "Can you write {a}{l} {n} that {w}?"])
    if "hello" in what and rng.random() < 0.5:
        q = rng.choice(["Write hello world in {l}.", "Hello world in {l}", "How do I print hello world in {l}?", "Show me hello world in {l}."])
    return q.format(a=a, n=noun, l=lang, w=what), f"```{lang.lower()}\n{text}\n```"
