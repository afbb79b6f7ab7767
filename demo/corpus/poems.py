"""Poems: haiku and rhymed verses, by topic."""

from .stories import HEROES, any_name, article

# topic | haiku lines separated by '/', several haiku separated by '#'
HAIKU = [tuple(x.strip() for x in l.split("|")) for l in """
the sea | Waves roll to the shore / the wide blue sea sings softly / gulls drift in the wind # Salt wind on my face / the tide comes in and goes out / the old sea breathes slow
the ocean | Deep below the waves / a whale sings its long slow song / the blue world listens # The wide ocean sleeps / moonlight walks across the waves / far away, a ship
the moon | The pale moon rises / over the sleeping rooftops / a cat looks up, still # Moon above the hill / silver light on quiet fields / the night holds its breath
the sun | The sun climbs slowly / gold light runs across the fields / the birds start to sing # Warm sun on my hands / the long shadow of a tree / noon, and nothing moves
rain | Rain taps on the glass / small rivers run down the street / the garden drinks deep # Grey clouds, gentle rain / a frog sits under a leaf / waiting for nothing
snow | Soft snow in the night / the whole town wakes up in white / one small bird has walked # Snow falls without sound / the old pine bends a little / smoke from a chimney
spring | A bud on the branch / the first warm wind of the year / something wakes inside # Spring comes to the hill / green grass under melting snow / a lamb learns to jump
summer | Long light of summer / children run through the tall grass / the day will not end # Bees hum in the heat / a glass of cold lemonade / clouds like sleeping sheep
autumn | Red leaves on the path / the wind turns them one by one / like pages, then stops # Geese fly in a line / the field lies empty and gold / smell of rain and leaves
winter | Ice upon the pond / the reeds stand stiff and silver / a fox trots across # Winter night, clear stars / my breath makes a little cloud / then it is not there
a cat | The cat on the sill / watches the world with half eyes / and owns all of it # Soft paws in the hall / a shadow jumps to my bed / and begins to purr
a dog | The door opens wide / a tail begins to tell me / how long the day was # Nose deep in the grass / the old dog reads the news there / and wags at each page
a fox | A fox at the edge / of the wood and of the day / gone before I breathe # Red coat in white snow / the fox listens to the ground / a mouse holds its breath
a tree | The old tree stands still / a hundred years in its rings / a nest in its arms # Roots deep in the dark / leaves that whisper to the sun / the tree joins the two
flowers | A flower opens / no one told it how to bloom / the bees know the way # Small blue flowers stand / between the stones of the road / nobody planted them
the mountains | The mountain is still / clouds come and go at its feet / it does not notice # High path in the mist / a bell from somewhere below / then only the wind
a river | The river moves on / it carries the sky with it / and never arrives # Stones in the river / round from a thousand years' talk / with the cold water
the forest | Deep in the forest / light falls in small golden coins / on the soft green moss # Tall trees, quiet path / a woodpecker knocks three times / and no one answers
the night | The town is asleep / one lamp burns in a window / someone reads alone # Night opens its hand / and lets the stars fly upwards / an owl calls softly
the stars | Small lights far away / so old that they may be gone / and still they reach us # Stars over the sea / the sailor counts them slowly / and knows the way home
the wind | The wind has no house / it knocks at every window / and never comes in # Wind in the tall grass / green waves run across the hill / and no one swims there
a bird | A bird on a wire / sings to the whole grey city / one man stops to hear # Small wings, a big sky / the bird does not ask the way / and comes back in spring
a butterfly | A butterfly rests / on the warm stone for a while / then the stone is bare # Wings like coloured glass / it dances over the fence / and takes my eyes too
coffee | Steam above the cup / the first sip opens my eyes / good morning, new day
tea | Leaves turn in the pot / warm hands around a small cup / the rain can go on
a computer | A cursor that blinks / a thousand small lights that think / the coffee grows cold # The fan hums softly / numbers run through silicon / an answer appears
friendship | Two cups on the stairs / we talk until it is late / the moon listens too
love | Your hand lies in mine / the snow may fall as it likes / here it is summer # You laugh in the rain / the street is shining with light / I have no umbrella
home | A light in the dark / the smell of bread at the door / I can take off my shoes
time | The clock on the wall / cuts the day into small bits / the cat sleeps through all
morning | The first light comes in / a kettle begins to sing / the day is still young
music | One note, then a pause / the whole room leans a little / towards what comes next
""".strip().splitlines()]

# topic | couplet ; couplet ; ... with '/' between the two lines
VERSES = [tuple(x.strip() for x in l.split("|")) for l in """
the sea | The sea is wide, the sea is deep, / it sings the little boats to sleep. ; The waves come in, the waves go out, / the gulls above them wheel and shout. ; It shines like silver in the sun, / and whispers when the day is done. ; I sit and watch it from the sand / and hold a shell inside my hand.
the moon | The moon looks down on field and town / and wears the night sky as a gown. ; It lights the path, it lights the stream, / and slips into a sleeper's dream. ; When morning comes it fades from view, / but it will come again for you.
the sun | The sun gets up and says hello / and makes the little flowers grow. ; It paints the hills, it warms the sea, / it shines on you, it shines on me. ; And when it sinks at end of day, / it sends the clouds of grey away.
rain | The rain falls soft on roof and tree / and plays a little tune for me. ; It fills the brook, it fills the well, / it wakes the earth with its fresh smell. ; And when it stops, the sky is new / and wears a bow of every hue.
snow | The snow comes down without a sound / and lays a blanket on the ground. ; The trees are white, the roofs are too, / the sky between is icy blue. ; We roll a ball, we build a man, / and laugh as only children can.
spring | The winter's gone, the snow is too, / the grass is green, the sky is blue. ; The birds are back, the lambs run free, / a blossom sits on every tree. ; So open wide the garden door, / for spring has come to us once more.
summer | The summer sun is high and bright, / the days are long, the air is light. ; We swim and run, we laugh and play / until the evening ends the day.
autumn | The leaves are red, the leaves are gold, / the mornings now are crisp and cold. ; The apples wait on every tree, / a few for you, a few for me. ; The wind goes singing through the lane / and says that winter comes again.
winter | The winter wind is cold and clear, / the longest nights of all are here. ; But by the fire, warm and near, / we tell the stories of the year.
a cat | My cat is soft, my cat is sly, / she watches all the birds go by. ; She sleeps all day upon my chair / and acts as if I were not there. ; But when at night I go to bed, / she curls up close beside my head.
a dog | My dog is always glad to see / that someone's home, and that it's me. ; He wags his tail, he brings his ball, / he is the dearest friend of all. ; And when the day is done, he lies / beside my feet with sleepy eyes.
a fox | A fox came through the evening light, / her coat was red, her tail was white. ; She stopped and looked, then off she sped / to where her cubs lay snug in bed.
a tree | A tree stands on the hill alone, / its roots hold tight to earth and stone. ; It gives us shade, it gives us air, / and lets the birds build houses there. ; The years go by, the tree stays on, / and greets with leaves each spring's new dawn.
flowers | The flowers open one by one / and turn their faces to the sun. ; In red and yellow, white and blue, / they give their colours all to you.
the stars | The stars come out when day is done / and light the dark up one by one. ; They are so many, far and small, / and yet there's room up there for all.
the wind | The wind runs barefoot through the wheat / and leaves no trace of hurried feet. ; It lifts the kite, it shakes the tree, / and brings the smell of rain to me.
a bird | A little bird sat on a tree / and sang a song for you and me. ; Its voice was clear, its wings were small, / its song was loved by one and all.
friendship | A friend is there when skies are grey / and helps to chase the clouds away. ; A friend will laugh, a friend will stay, / and walk beside you all the way.
love | Love is the lamp upon the sill / that burns when all the house is still. ; Love is the hand, love is the song / that says: come in, you do belong.
home | There is a place where I may rest, / of all the places it's the best. ; A light, a door, a well-known face: / my home will always be that place.
a robot | A little robot made of tin / had many cogs and wires within. ; It learned to count, it learned to sing, / it learned to like most everything.
a computer | Inside a box of glass and light / small numbers hurry day and night. ; They add, they sort, they search, they play, / and help me with my work all day.
the night | The night comes softly, dark and deep, / and sings the tired world to sleep. ; The owl is up, the moon is bright, / so close your eyes, and now good night.
mother | A mother's hands are warm and kind, / a better friend is hard to find. ; She dries our tears, she hears our fears, / and loves us through the many years.
""".strip().splitlines()]

GENERIC = [
    ["I think of {t} when the day is new", "and all the grass is bright with dew."],
    ["I think of {t} when the stars come out", "and little winds go round about."],
    ["Oh, how I like {t}, yes, I do,", "and maybe you will like it too."],
    ["There is a song inside my head,", "it sings of {t} when I'm in bed."],
    ["The world is wide, the world is fair,", "and there is beauty everywhere."],
    ["So let us sing, so let us play,", "and be a little kind today."],
]


def haiku(rng, topic):
    options = [h for t, h in HAIKU if t == topic]
    if not options:
        return None
    text = rng.choice(options[0].split("#")).strip()
    return "\n".join(line.strip()[0].upper() + line.strip()[1:] if i == 0 else line.strip() for i, line in enumerate(text.split("/"))) + "."


def verse(rng, topic, lines=None):
    options = [v for t, v in VERSES if t == topic]
    if options:
        couplets = [[x.strip() for x in c.split("/")] for c in options[0].split(";")]
        keep = couplets[: max(1, lines // 2)] if lines else couplets
    else:
        first = rng.sample(GENERIC[:4], 2)
        keep = [[x.format(t=topic) for x in c] for c in first] + [rng.choice(GENERIC[4:])]
    return "\n".join(x for c in keep for x in c)


OTHER_TOPICS = ["my garden", "the city", "a train", "a horse", "an elephant", "a lion", "a frog", "the school", "pizza", "cheese", "a bicycle", "the clouds",
                "a lighthouse", "a little boat", "my grandmother", "a dragon", "bread", "the farm", "an owl", "a bear", "books", "a mouse", "the desert", "Paris",
                "London", "a rabbit", "chocolate", "dreams", "hope", "peace", "the rainbow", "a castle", "an island", "a penguin", "bees", "my brother", "my sister"]


def any_topic(rng):
    k = rng.random()
    return rng.choice(OTHER_TOPICS) if k < 0.3 else article(rng.choice(HEROES)) if k < 0.7 else any_name(rng)


def ask_poem(rng):
    """(question, poem)"""
    verb = rng.choice(["Write", "Write", "Write me", "Please write", "Can you write", "Compose", "Give me", "Tell me", "Make", "Could you write", "I would like", "Create"])
    if rng.random() < 0.45:
        topic = rng.choice(HAIKU)[0]
        q = f"{verb} a {rng.choice(['haiku', 'haiku', 'short haiku', 'haiku poem'])} {rng.choice(['about', 'about', 'on'])} {topic}"
        a = haiku(rng, topic)
        if rng.random() < 0.15:
            q = f"{verb} a haiku"
            a = haiku(rng, rng.choice(HAIKU)[0])
    else:
        topic = rng.choice(VERSES)[0] if rng.random() < 0.65 else any_topic(rng)
        q = f"{verb} a {rng.choice(['poem', 'short poem', 'little poem', 'verse', 'rhyme', 'poem with rhymes', 'nice poem'])} {rng.choice(['about', 'about', 'on'])} {topic}"
        a = verse(rng, topic)
        p = rng.random()
        if p < 0.12:
            q = f"{verb} a poem"
            a = verse(rng, rng.choice(VERSES)[0])
        elif p < 0.25 and topic in [v[0] for v in VERSES]:
            n = rng.choice([2, 4])
            q = f"{verb} a poem of {'two' if n == 2 else 'four'} lines about {topic}"
            a = verse(rng, topic, n)
    return q + ("?" if q.startswith(("Can", "Could")) else rng.choice([".", ".", "", ", please."])), a
