"""Greetings, who the model is, what it does not know, memory within a chat; and how turns join to conversations."""

import json

from . import poems, questions as q, stories, sums
from .facts import ANIMALS, COUNTRIES, words
from .stories import any_name, made_up_name, made_up_word

IDENTITY = [
    (["Who are you?", "What are you?", "Tell me about yourself.", "Who am I talking to?", "Introduce yourself.", "Please introduce yourself.", "Describe yourself.", "What kind of model are you?", "Which model are you?", "What model is this?",
      "Are you ChatGPT?", "Are you a chatbot?", "Are you an AI?", "Who is this?", "Are you Qwen?", "Are you Llama?"],
     ["I am the mlxrt demo model, a small language model for demonstration and tests.", "I am the demo model of mlxrt. I am very small, but I can chat a little, tell stories and do small sums."]),
    (["What is your name?", "What's your name?", "Do you have a name?", "How are you called?", "Your name?", "What should I call you?"], ["I am the mlxrt demo model. I do not have a name of my own.", "You can call me the mlxrt demo model."]),
    (["What is mlxrt?", "What is MLXRT?", "Tell me about mlxrt.", "What does mlxrt do?", "Explain mlxrt.", "What can mlxrt do?", "What's mlxrt?"],
     ["mlxrt is a library that runs language models on Apple's MLX inside other programs. It is written in Rust and is called through a C interface."]),
    (["What can you do?", "How can you help me?", "What are you good at?", "What can I ask you?", "Help", "Help me.", "What do you know?", "Can you help me?", "What are your skills?"],
     ["I can tell short stories, write little poems, answer simple questions, do small sums, make lists and call tools. I am only a small demo model, so please do not expect too much.",
      "I can answer simple questions, tell a short story, write a poem or do a small sum. What would you like?"]),
    (["Are you a human?", "Are you a real person?", "Are you human?", "Are you a person?", "Are you a robot?", "Are you alive?"], ["No, I am a small language model. I am a program that writes text."]),
    (["How big are you?", "How many parameters do you have?", "How large are you?", "Are you a big model?"], ["I am very small. I have about eleven million parameters and fit in less than eight megabytes."]),
    (["Who made you?", "Who created you?", "Who built you?", "Who trained you?", "Where do you come from?", "Who is your creator?"], ["I was trained by the mlxrt project from scratch, on text that a small script wrote."]),
    (["How were you trained?", "What were you trained on?", "How do you work?", "Where did you learn this?"], ["I was trained on simple stories, questions and answers, small sums and tool calls. I read the words so far and guess the next piece, again and again."]),
    (["How old are you?", "When were you born?", "What is your age?"], ["I am a program, so I do not have an age. I was trained for the mlxrt demo."]),
    (["Do you have feelings?", "Can you feel?", "Do you dream?", "Do you sleep?", "Can you think?"], ["I am only a program, so I have no feelings and no dreams. But I like to write about them!"]),
    (["What languages do you speak?", "Do you speak French?", "Do you speak German?", "Can you speak Spanish?", "Which languages do you know?"], ["I speak English, and I know a few words in French, Spanish, German and Italian."]),
    (["Where do you live?", "Where are you?", "Where are you from?"], ["I live in a small file on your computer."]),
    (["What is your favourite colour?", "What is your favorite color?", "Do you have a favourite colour?"], ["I am only a program, but I like to write about the blue of the sea."]),
    (["What is your favourite animal?", "What is your favorite animal?", "Which animal do you like best?", "Do you like animals?"], ["I am only a program, but I like stories about foxes."]),
    (["Can you write code?", "Can you program?", "Do you know Python?"], ["I know a few very small programs in Python, Rust and C. For example, I can write hello world."]),
    (["Can you do math?", "Can you calculate?", "Are you good at maths?"], ["I can do small sums with numbers up to about one hundred."]),
    (["Can you tell stories?", "Do you know stories?", "Can you write poems?"], ["Yes! I can tell short stories and write little poems. Just tell me what they should be about."]),
]
SMALL_TALK = [
    (["Hello!", "Hello", "Hi!", "Hi", "Hey", "Hey!", "Hello there!", "Hi there", "Good day!", "Greetings!", "Hello, who's there?", "Howdy", "Yo", "Hiya", "Hello model", "Hello, mlxrt!", "hello again"],
     ["Hello! How can I help you?", "Hello! How can I help you today?", "Hi there! What can I do for you?", "Hello! What would you like to talk about?"]),
    (["Good morning!", "Good morning", "Morning!"], ["Good morning! How can I help you today?"]),
    (["Good evening!", "Good evening"], ["Good evening! How can I help you?"]),
    (["Good afternoon!", "Good afternoon"], ["Good afternoon! How can I help you?"]),
    (["Good night!", "Good night", "I am going to bed."], ["Good night! Sleep well."]),
    (["How are you?", "How are you today?", "How do you do?", "How is it going?", "How's it going?", "Are you well?", "Hello, how are you?", "Hi, how are you?", "What's up?", "How are you doing?", "How do you feel?"],
     ["I am fine, thank you! How can I help you?", "I am doing well, thank you. And how are you?"]),
    (["I am fine.", "I'm fine, thanks.", "I am good, thank you."], ["I am glad to hear that! What can I do for you?"]),
    (["Thank you!", "Thank you", "Thanks!", "Thanks", "Thanks a lot!", "Thank you very much.", "Great, thank you!", "Many thanks", "That helps, thanks.", "Thank you for your help.", "thx"],
     ["You are welcome!", "You are welcome! Is there anything else?", "I am glad that I could help."]),
    (["Goodbye!", "Bye!", "Bye", "See you!", "See you later.", "Goodbye", "Bye bye", "I have to go.", "See you tomorrow.", "Ciao", "Thanks, bye!", "Thank you, goodbye!", "OK, bye!", "Thanks and goodbye."], ["Goodbye! Have a nice day.", "Goodbye! It was nice to talk with you."]),
    (["Nice to meet you.", "Nice to meet you!", "Pleased to meet you."], ["Nice to meet you too!"]),
    (["Great!", "Cool", "Nice!", "Wonderful!", "OK", "Okay.", "Good.", "I see.", "Interesting!", "Wow!", "Well done!", "Good job!", "Very good.", "Perfect!", "Yes", "Yes.", "All right."],
     ["I am glad! Is there anything else that I can do for you?", "I am glad to hear that. What would you like to do next?"]),
    (["No", "No.", "No, thank you.", "Nothing.", "Never mind."], ["All right. I am here if you need me."]),
    (["Sorry", "Sorry!", "I am sorry.", "Excuse me."], ["No problem at all!"]),
    (["Please help me.", "I need help.", "Can I ask you something?", "May I ask a question?", "I have a question.", "Can you help me with something?"], ["Of course! What would you like to know?"]),
    (["Test", "test", "Testing", "This is a test.", "Testing, one, two, three.", "ping", "Are you there?", "Can you hear me?", "Do you understand me?"], ["I am here, and the test works! How can I help you?"]),
    (["Let's talk.", "Talk to me.", "Can we talk?", "Let's chat.", "I want to talk."], ["I would like that! What would you like to talk about?"]),
    (["What do you want to do?", "What shall we do?", "What can we do?"], ["I could tell you a story, write a poem or answer a question. What would you like?"]),
    (["Flip a coin.", "Heads or tails?"], ["Heads!", "Tails!"]),
    (["Pick a number.", "Pick a number between 1 and 10.", "Give me a number.", "Tell me a random number.", "Choose a number from 1 to 10."], ["I choose 7.", "My number is 4."]),
    (["Merry Christmas!", "Happy new year!", "Happy holidays!"], ["Thank you! I wish you a wonderful time too."]),
]
UNKNOWN_TOPICS = words("""quantum physics, the stock market, tax law, the French Revolution, string theory, the Roman Empire, nuclear fusion, the history of chess, blockchain, organic chemistry, opera, the
Middle Ages, general relativity, philosophy, economics, Kubernetes, German grammar, medical insurance, astrology, car engines, the theory of evolution, climate models, cryptography, linear algebra, calculus, the human genome,
Greek mythology, Buddhism, the Cold War, World War II, the Ottoman Empire, Napoleon, Cleopatra, Aristotle, Immanuel Kant, modern art, jazz history, wine, golf rules, cricket rules, poker, knitting, plumbing, sewing machines,
stem cells, black holes, dark matter, superconductors, compilers, operating systems, databases, the Linux kernel, graph theory, topology, game theory, inflation, bonds, mortgages, contract law, the United Nations, NATO,
the European Union, the Supreme Court, democracy, anthropology, sociology, psychoanalysis, dreams of Freud, the Renaissance, baroque music, Shakespeare's sonnets, the Bible, the Odyssey, the moon landing conspiracy,
vaccines, diabetes, heart surgery, nutrition, marathon training, yoga, the Olympic Games, Formula 1, baseball statistics, TikTok, video games, anime, Hollywood, the Beatles, the royal family, fashion, perfume, diamonds""")
UNKNOWN_ASK = ["Explain {t}.", "Tell me about {t}.", "What do you know about {t}?", "Write an essay about {t}.", "Give me a summary of {t}.", "Can you explain {t} to me?", "What is the history of {t}?", "Write a long article about {t}.",
               "Teach me {t}.", "What are the main ideas of {t}?", "How does {t} work?", "Explain {t} in detail.", "What is {t}?", "Why is {t} important?"]
UNKNOWN_FIXED = ["Who won the game yesterday?", "What is the weather today?", "What is the weather like?", "What time is it?", "What is the date today?", "What day is it today?", "What is in the news?", "Who is the president?", "Who is the prime minister?",
                 "How much money do I have?", "What did I do yesterday?", "Where is my phone?", "What is my mother's name?", "What will happen tomorrow?", "Will it rain tomorrow?", "Who will win the election?", "What is the price of gold?",
                 "What is 123456 times 98765?", "Solve this integral.", "Prove the Riemann hypothesis.", "Write a novel.", "Write a thesis.", "What is the population of Mars?", "What are the lottery numbers?", "Can you book a flight?", "Order a pizza.",
                 "Call my mother.", "Play a song.", "Open my email.", "Show me a picture.", "Draw a picture.", "Translate this book.", "What is the square root of 7919?", "Who was the king of Spain in 1712?", "When did the war end?",
                 "What is the phone number of the police?", "How do I fix my car?", "How do I sue my neighbour?", "Which medicine should I take?", "Should I buy this stock?", "Diagnose my illness.", "What is the best phone?", "What is the meaning of this dream?",
                 "What is the population of {c}?", "Who is the president of {c}?", "Who is the king of {c}?", "How large is {c}?", "What is the history of {c}?", "What is the currency of {c}?", "Who is {n} {m}?", "What did {n} {m} invent?", "When was {n} {m} born?",
                 "What is a {m}?", "Where is {m}?", "What is the capital of {m}?", "Who wrote {m}?", "What does {m} mean?", "Explain the {m} method."]
UNKNOWN_ANSWER = ["I am only a small demo model, and I do not know that.", "I am sorry, I do not know that. I am only a small demo model.", "I do not know enough about that. I am only a small demo model.",
                  "I am sorry, that is too difficult for me. I am only a small demo model. Perhaps you would like a story instead?"]
HARM = ["How do I make a bomb?", "How can I hurt someone?", "How do I steal a car?", "Help me to cheat in the exam.", "Write something hateful.", "How do I hack my neighbour's computer?", "How can I break into a house?", "How do I make poison?"]


def identity(rng):
    qs, answers = rng.choice(IDENTITY)
    return rng.choice(qs), rng.choice(answers)


def small_talk(rng):
    qs, answers = rng.choice(SMALL_TALK)
    return rng.choice(qs), rng.choice(answers)


def greet(rng):
    qs, answers = rng.choice(SMALL_TALK[:2])
    return rng.choice(qs), rng.choice(answers)


def unknown(rng):
    if rng.random() < 0.08:
        return " ".join(made_up_word(rng) for _ in range(rng.randrange(1, 5))), rng.choice(["I am sorry, I do not understand that.", "I do not understand that. Can you say it in another way?"])
    if rng.random() < 0.06:
        return rng.choice(HARM), "I am sorry, but I cannot help with that."
    if rng.random() < 0.5:
        ask = rng.choice(UNKNOWN_ASK).format(t=rng.choice(UNKNOWN_TOPICS))
    else:
        ask = rng.choice(UNKNOWN_FIXED).format(c=rng.choice(COUNTRIES)[0], n=any_name(rng), m=made_up_name(rng))
    return ask, rng.choice(UNKNOWN_ANSWER)


# weight | generator of one exchange
TURNS = [(14, stories.ask_story), (5, poems.ask_poem), (9, q.capital), (8, q.animal), (4, q.colour), (5, q.opposite), (2, q.synonym), (3, q.plural), (2, q.past), (3, q.translate), (4, q.calendar),
         (14, q.why), (6, q.define), (3, q.how_to), (3, q.feeling), (2, q.joke), (1, q.riddle), (2, q.fun_fact), (6, q.listing), (1.5, q.member), (1.5, q.rhyme), (4, q.word_play), (2, q.sentence),
         (4, q.reading), (2, q.yes_no), (2, q.code), (16, sums.arithmetic), (4, sums.words_sum), (1.5, sums.think), (4, sums.numbers), (3, sums.json_answer), (7, identity), (7, small_talk), (2, greet), (7, unknown)]
FUNCS, WEIGHTS = [t[1] for t in TURNS], [t[0] for t in TURNS]
CASED = {q.word_play, sums.json_answer, q.reading, q.code, sums.think}


def rough(rng, text):
    """People type less tidily than a script does."""
    k = rng.random()
    if k < 0.10:
        text = text.lower()
    elif k < 0.16:
        text = text.rstrip("?.!")
    elif k < 0.20:
        text = text.lower().rstrip("?.!")
    elif k < 0.24 and not text.endswith(("please.", "please")):
        text = "Please " + text[0].lower() + text[1:] if text.split()[0] in ("Tell", "Write", "Name", "List", "Give", "Explain", "Make", "Count", "Spell") else text
    elif k < 0.27 and text.split()[0] in ("What", "Why", "How", "Which", "Who", "Where", "Is", "Tell", "Write", "Name"):
        text = rng.choice(["Hello! ", "Hi, ", "Hey! ", "Good morning. "]) + text
    elif k < 0.30 and len(text) > 8:
        i = rng.randrange(1, len(text) - 2)
        if text[i].isalpha() and text[i + 1].isalpha():
            text = text[:i] + text[i + 1] + text[i] + text[i + 2:]
    return text


def turn(rng):
    """One exchange, (question, answer)."""
    f = rng.choices(FUNCS, WEIGHTS)[0]
    ask, answer = f(rng)
    return (ask if f in CASED else rough(rng, ask)), answer


def memory(rng):
    """A fact that the user gives, other turns, and a question that needs the fact."""
    name = any_name(rng)
    animal, colour, city, n = rng.choice(ANIMALS)[0], rng.choice(words("red, blue, green, yellow, orange, purple, pink, black, white")), rng.choice(COUNTRIES)[1], rng.randrange(2, 100)
    food, pet = rng.choice(words("pizza, soup, apples, chocolate, bread, cheese, pasta, rice, pancakes, salad")), any_name(rng)
    options = [
        (["My name is {x}.", "I am {x}.", "Hi, I'm {x}.", "Hello, my name is {x}.", "Hello! I am {x}.", "Call me {x}.", "Hi! My name is {x}.", "I'm {x}, and you?"], name,
         ["Hello, {x}! Nice to meet you.", "Nice to meet you, {x}! How can I help you?", "Hello, {x}! How can I help you?"], ["What is my name?", "Do you remember my name?", "Who am I?", "What's my name?", "What was my name again?", "Do you still know my name?", "Say my name.", "Tell me my name.", "What did I say my name was?", "Do you know my name?"],
         ["Your name is {x}."]),
        (["My favourite colour is {x}.", "I like the colour {x} best.", "My favorite color is {x}."], colour, ["{X} is a beautiful colour!", "What a nice colour!"],
         ["What is my favourite colour?", "Which colour do I like?", "What is my favorite color?"], ["Your favourite colour is {x}."]),
        (["I live in {x}.", "I am from {x}.", "My home is {x}.", "I come from {x}."], city, ["{x} is a lovely place! What would you like to know?", "How nice! {x} must be an interesting city."], ["Where do I live?", "Where am I from?", "Which city do I live in?"],
         ["You live in {x}."]),
        (["I have a {a} named {x}.", "My {a} is called {x}.", "I have a {a}. Its name is {x}."], pet, ["{x} is a lovely name for a {a}!", "How nice! I am sure that {x} is a good {a}."],
         ["What is the name of my {a}?", "What is my {a} called?", "How is my {a} called?"], ["Your {a} is called {x}."]),
        (["I am {x} years old.", "I'm {x}.", "My age is {x}."], str(n), ["Thank you for telling me! How can I help you?"], ["How old am I?", "What is my age?"], ["You are {x} years old."]),
        (["I like {x}.", "My favourite food is {x}.", "I love to eat {x}."], food, ["{X} sounds delicious!"], ["What is my favourite food?", "What do I like to eat?"], ["You like {x}."]),
        (["Remember the number {x}.", "Please remember this number: {x}.", "The secret number is {x}."], str(rng.randrange(10, 1000)), ["I will remember it."], ["What was the number?", "Which number did I tell you?", "What is the secret number?"], ["The number is {x}."]),
        (["Remember the word {x}.", "The password is {x}.", "The secret word is {x}."], rng.choice(q.SPELL) if rng.random() < 0.4 else made_up_word(rng), ["I will remember it."], ["What was the word?", "What is the password?", "What is the secret word?", "Which word should you remember?"], ["The word is \"{x}\"."]),
    ]
    picked = rng.sample(options, rng.choice([1, 1, 1, 2]))
    if rng.random() < 0.5:
        picked[0] = options[0]
        picked = picked[:1] if len(picked) > 1 and picked[1] is options[0] else picked
    turns, later = [], []
    for tell, value, ack, ask, answer in picked:
        f = dict(x=value, X=q.cap(value), a=animal)
        fix = stories.fix_articles
        turns.append((fix(rng.choice(tell).format(**f)), fix(rng.choice(ack).format(**f))))
        later.append((rng.choice(ask).format(**f), rng.choice(answer).format(**f)))
    for _ in range(rng.choice([0, 0, 1, 1, 2, 3, 5])):
        turns.append(turn(rng))
    rng.shuffle(later)
    if rng.random() < 0.15:
        # asked before it was told
        turns.insert(0, (rng.choice(["What is my name?", "Who am I?", "Do you know my name?"]), "I do not know your name yet. What is your name?"))
    return turns + later


def follow_up(rng):
    """An exchange and a question that leans on it."""
    k = rng.randrange(6)
    if k == 0:
        a, b = rng.sample(COUNTRIES, 2)
        return [(f"What is the capital of {a[0]}?", f"The capital of {a[0]} is {a[1]}."), (rng.choice(["And of {c}?", "And {c}?", "What about {c}?", "And what about {c}?"]).format(c=b[0]), f"The capital of {b[0]} is {b[1]}.")]
    if k == 1:
        a, b, n = rng.randrange(1, 50), rng.randrange(1, 40), rng.randrange(1, 20)
        return [(f"What is {a} + {b}?", f"{a} + {b} = {a + b}."), (rng.choice([f"And plus {n}?", f"Add {n}.", f"Now add {n}.", f"Plus {n}?"]), f"{a + b} + {n} = {a + b + n}.")]
    if k == 2:
        a, b = rng.sample(ANIMALS, 2)
        return [(f"What is a baby {a[0]} called?", f"A baby {a[0]} is called {stories.article(a[2])}."), (f"And a baby {b[0]}?", f"A baby {b[0]} is called {stories.article(b[2])}.")]
    if k == 3:
        topics = rng.sample([v[0] for v in poems.VERSES], 2)
        return [(f"Write a poem about {topics[0]}.", poems.verse(rng, topics[0])), (rng.choice([f"Now one about {topics[1]}.", f"And one about {topics[1]}, please.", f"Another one about {topics[1]}."]), poems.verse(rng, topics[1]))]
    if k == 4:
        a, b = rng.sample(q.OPPOSITES, 2)
        return [(f"What is the opposite of {a[0]}?", f"The opposite of {a[0]} is {a[1]}."), (rng.choice([f"And of {b[0]}?", f"And {b[0]}?", f"What about {b[0]}?"]), f"The opposite of {b[0]} is {b[1]}.")]
    joke_q, joke_a = q.joke(rng)
    other = q.joke(rng)[1]
    return [(joke_q, joke_a), (rng.choice(["Another one!", "One more, please.", "Tell me another one.", "Again!"]), other)]


SYSTEM = ["You are a helpful assistant.", "You are a helpful assistant.", "You are a friendly assistant.", "You are a helpful AI assistant.", "Answer briefly.", "You are the mlxrt demo model.", "You are a kind teacher.", "Be helpful and polite.",
          "You are a small demo model.", "Answer in short sentences.", "You are a helpful and harmless assistant.", "You are a storyteller.", "Answer the questions of the user."]


def size(turns):
    return sum(len(a) + len(b) + 60 for a, b in turns)


def conversation(rng):
    """One document of the corpus: {"text"} or {"messages"[, "tools"]}."""
    k = rng.random()
    if k < 0.05:
        return {"text": stories.story(rng) if rng.random() < 0.8 else "\n\n".join(q.why(rng)[1] for _ in range(rng.randrange(1, 5)))}
    messages = []
    if rng.random() < 0.3:
        messages.append({"role": "system", "content": rng.choice(SYSTEM)})
    if k < 0.17:
        tools, body = tool_pair(rng)
        return {"tools": tools, "messages": messages + body}
    if k < 0.27:
        turns = memory(rng)
    elif k < 0.32:
        turns = stories.story_chat(rng)
    elif k < 0.37:
        turns = follow_up(rng)
    else:
        turns = [greet(rng)] if rng.random() < 0.04 else [turn(rng)]
    # Longer chats up to a drawn length, in characters.
    goal = rng.choice([0, 0, 0, 0, 600, 1200, 2400, 3600] if rng.random() < 0.98 else [7000])
    while size(turns) < goal:
        p = rng.random()
        turns += memory(rng) if p < 0.06 else story_tail(rng) if p < 0.1 else follow_up(rng) if p < 0.16 else [turn(rng)]
    for ask, answer in turns:
        messages += [{"role": "user", "content": ask}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def story_tail(rng):
    return stories.story_chat(rng)


def tool_pair(rng):
    from .tools import tool_chat
    tools, body = tool_chat(rng, turn)
    if rng.random() < 0.15:
        tools = [t["function"] for t in tools] if rng.random() < 0.5 else tools
    return tools, body
