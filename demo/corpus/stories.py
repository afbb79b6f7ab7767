"""Short stories: a hero, a place, a plot of a few beats, an ending. Every choice is drawn from a seeded generator."""

from .facts import ANIMALS, words

HEROES = [a[0] for a in ANIMALS] + words("""dragon, robot, unicorn, wizard, witch, knight, princess, prince, king, queen,
giant, pirate, sailor, farmer, baker, teacher, painter, gardener, fisherman, astronaut, doctor, boy, girl, child, old man,
old woman, grandmother, snowman, ghost, fairy, mermaid, elf, dwarf, troll, dinosaur, train, little boat, teddy bear, toy soldier,
cloud, star, tree, flower, leaf, raindrop, snowflake, kite, lantern, clock, teapot, scarecrow, clown, shepherd, cook, inventor,
musician, postman, firefighter, captain, computer, cheetah, puppy, kitten, duckling, lamb, pony, little bird, chipmunk, raccoon,
lobster, starfish, jellyfish, seahorse, swallow, sparrow, peacock, magpie, dragonfly, firefly, beetle, cricket, worm, mole, moose,
llama, sloth, skunk, walrus, lynx, buffalo, yak, puffin, stork, hen, bull, ox, caterpillar""")
PEOPLE = set(words("""wizard, witch, knight, princess, prince, king, queen, pirate, sailor, farmer, baker, teacher, painter, gardener,
fisherman, astronaut, doctor, boy, girl, child, old man, old woman, grandmother, clown, shepherd, cook, inventor, musician, postman,
firefighter, captain"""))
FEMALE = set(words("witch, princess, queen, girl, old woman, grandmother, mermaid, fairy, hen"))
MALE = set(words("wizard, prince, king, boy, old man, fisherman, postman, snowman, rooster, bull, dwarf"))
GIRLS = words("""Mia, Lily, Anna, Emma, Nora, Ella, Ruby, Rosa, Clara, Luna, Daisy, Poppy, Ivy, Hazel, Zoe, Maya, Olive, Tilda, Wren, Pearl,
Sara, Lucy, Alice, Marta, Greta, Ida, Juna, Kira""")
BOYS = words("""Tom, Leo, Max, Finn, Oscar, Hugo, Ben, Sam, Theo, Felix, Milo, Otto, Jasper, Rufus, Toby, Bruno, Barnaby, Pip, Walter, Emil,
Noah, Jack, Peter, Paul, Anton, Victor, Henry, Nico""")
ADJ = words("""little, young, small, kind, brave, clever, shy, curious, gentle, cheerful, lonely, hungry, friendly, quiet, lively, careful,
lazy, proud, old, happy, funny, tiny, big, red, white, grey, golden""")
PLACES = [tuple(x.strip() for x in l.split("|")) for l in """
forest | in a deep green forest | among the tall trees
mountain | on the side of a high mountain | along the rocky path
sea | by the wide blue sea | along the shore
village | in a small village | down the narrow street
farm | on a sunny farm | past the old barn
garden | in a garden full of flowers | between the flowers
lake | beside a quiet lake | around the lake
river | near a clear river | along the river
city | in a big, busy city | through the busy streets
island | on a small island | across the warm sand
desert | at the edge of a hot desert | over the dunes
castle | in an old stone castle | through the long halls
meadow | in a meadow of soft grass | through the tall grass
jungle | in a warm and noisy jungle | under the thick leaves
valley | in a green valley | down the grassy hill
hill | on top of a windy hill | down the winding path
snow | in a land of ice and snow | over the white snow
harbour | in a busy harbour | between the boats
school | near a little school | across the playground
moon | on the moon | over the grey dust
space | in a small house among the stars | past the shining planets
town | in a quiet town | across the market square
beach | on a long sandy beach | along the waves
lighthouse | in a tall white lighthouse | down the winding stairs
cave | in a cosy cave | out into the light
swamp | at the edge of a misty swamp | over the mossy stones
park | in a green park | past the big fountain
library | in an old library | between the tall shelves
""".strip().splitlines()]
PLACE = {p[0]: p for p in PLACES}
THINGS = words("""a red ball, a golden key, a silver bell, a blue kite, a small music box, a shiny stone, a warm scarf, a wooden boat, a glass
marble, an old map, a paper lantern, a brass compass, a green hat, a soft blanket, a little drum, a red balloon, a magic book, a lost
ring, a tiny seed, a bright feather, a broken clock, a sweet apple, a big cake, a strange egg, a silver coin, a letter, a wooden flute,
a yellow umbrella, a pair of boots, a lost toy""")

OPEN = ["Once upon a time there was a {adj} {hero} named {N}. {He} lived {in_place}.",
        "Once upon a time, a {adj} {hero} named {N} lived {in_place}.",
        "There was once a {adj} {hero} called {N} who lived {in_place}.",
        "A {adj} {hero} named {N} lived {in_place}.",
        "Long ago, {in_place}, there lived a {adj} {hero} named {N}.",
        "{N} was a {adj} {hero}. {He} lived {in_place}."]

# Each plot: beats; each beat: alternatives.
PLOTS = {
    "lost": [
        ["One day {N} lost {thing}.", "One morning {N} could not find {thing} that {he} loved very much.", "{N} had {thing}, but one windy day it was gone."],
        ["{He} looked everywhere, but {he} could not find it.", "{He} searched {along} until the sun was low.", "{N} looked under every stone and behind every bush."],
        ["Then {he} met {a_friend}. \"Why are you so sad?\" asked the {friend}. \"I have lost {thing},\" said {N}.",
         "At last {he} met {a_friend}. \"Can you help me?\" asked {N}. \"I have lost {thing}.\""],
        ["\"Let us look together,\" said the {friend}.", "\"Four eyes see more than two,\" said the {friend}. \"I will help you.\""],
        ["They walked {along}, and soon they saw something in the grass. There it was!", "Together they searched again, and just before dark the {friend} found it under a leaf.",
         "They looked for a long time, and at last {N} saw it shine in the evening light."],
        ["{N} was so happy that {he} danced with joy.", "{N} thanked the {friend} again and again.", "\"Thank you!\" said {N}. \"I could not have found it alone.\""],
        ["From that day on, the two were best friends.", "{N} had found {thing}, and {he} had found a friend as well."]],
    "help": [
        ["One day {N} heard a small voice. \"Help! Help!\"", "One cold morning {N} heard someone cry.", "One afternoon, {N} was walking {along} when {he} heard a sad sound."],
        ["It was {a_friend} that could not get home.", "{A_friend} was stuck in the mud.", "{A_friend} was caught in a thorny bush."],
        ["\"Do not be afraid,\" said {N}. \"I will help you.\"", "{N} was a little afraid, but {he} did not run away.", "\"Hold on!\" called {N}."],
        ["{He} pulled and pulled until the {friend} was free.", "{He} worked slowly and carefully, and at last the {friend} was safe.", "{He} found a long branch, and with it {he} saved the {friend}."],
        ["\"Thank you,\" said the {friend}. \"I will never forget this.\"", "The {friend} smiled. \"You are very kind,\" it said."],
        ["Some days later there was a big storm, and {N} lost the way home.", "Not long after, {N} fell into a deep hole and could not get out.", "The next week {N} was lost in a thick fog."],
        ["Then the {friend} came and showed {him} the way.", "But the {friend} heard {him} call and came to help.", "The {friend} came at once and brought {him} home."],
        ["So {N} learned that kindness comes back.", "And {N} knew that a kind deed is never lost.", "From then on they helped each other every day."]],
    "brave": [
        ["{N} was afraid of {fear}.", "{N} had always been afraid of {fear}."],
        ["Every evening {he} hid at home while the others played.", "The others laughed, and that made {him} sad.", "\"I will never be brave,\" {he} thought."],
        ["One night {a_friend} did not come home.", "One stormy evening {a_friend} called for help.", "Then one day {a_friend} needed help, and nobody else was near."],
        ["{N} took a deep breath. {His} heart beat fast, but {he} went out.", "{N} was shaking, but {he} took one step, and then another.", "\"I must try,\" said {N}, and {he} ran {along}."],
        ["{He} found the {friend} and led it home.", "There was the {friend}, cold and frightened, and {N} brought it back safely."],
        ["\"You are the bravest of us all,\" said the {friend}.", "Everyone cheered when they came back.", "\"Were you not afraid?\" asked the {friend}. \"Yes,\" said {N}, \"but I came anyway.\""],
        ["That night {N} understood that being brave means to be afraid and to go on all the same.", "From that day on, {N} was not so afraid any more."]],
    "race": [
        ["One day {a_friend} said, \"I am faster than you, {N}.\"", "One day {a_friend} asked {N} to run a race.", "In spring there was a great race. {N} wanted to win it, and {a_friend} wanted to win it too."],
        ["They started early in the morning and ran {along}.", "At noon the race began, and they both ran {along}."],
        ["The {friend} was very fast and was soon far ahead.", "At first {N} was far behind."],
        ["But the {friend} was so sure of winning that it lay down to rest.", "But then the {friend} stopped to eat and to laugh.", "But the {friend} was tired of waiting and fell asleep under a bush."],
        ["{N} went on, step by step, and did not stop.", "{N} ran on quietly and looked only ahead."],
        ["When the {friend} looked up, {N} had already won.", "And so {N} came first, to the surprise of everyone."],
        ["\"Slow and steady wins the race,\" said {N} with a smile.", "\"Next time I will not be so proud,\" said the {friend}, and they became friends."]],
    "fair": [
        ["One day {a_friend} asked {N} to run a race.", "Every year there was a great race, and this year {N} and {a_friend} were the fastest of all."],
        ["They ran side by side {along}.", "They ran as fast as they could."],
        ["Suddenly the {friend} fell over a stone and hurt its foot.", "Near the end the {friend} slipped and could not get up."],
        ["{N} could have run past and won, but {he} stopped.", "{N} saw the finish, but {he} turned around."],
        ["\"Lean on me,\" said {N}, and they walked on together.", "{He} helped the {friend} up and held it by the arm."],
        ["They crossed the line together, and everyone cheered louder than ever before.", "They were the last to arrive, but everyone cheered for them."],
        ["\"A friend is worth more than a prize,\" said {N}.", "From that day on the two were best friends."]],
    "friend": [
        ["{N} had no friends and was often alone.", "{N} wished for a friend more than for anything else.", "Every day {N} played alone."],
        ["One morning {he} set out to find one.", "\"I will go and find a friend,\" {he} said one day, and walked {along}."],
        ["First {he} met {a_other}. \"Will you be my friend?\" asked {N}. \"I have no time,\" said the {other}.", "First {he} asked {a_other}, but the {other} only wanted to sleep."],
        ["{N} walked on. Under a tree sat {a_friend}, and it looked sad.", "Then {he} saw {a_friend} that was all alone too."],
        ["{N} shared {his} lunch with the {friend}.", "\"Would you like to play?\" asked {N}.", "{N} sat down beside it and told it a joke."],
        ["They laughed and played until the stars came out.", "They talked and sang for the whole afternoon."],
        ["\"To find a friend, you must be a friend,\" said the {friend}.", "From that day on {N} was never lonely again.", "And they met in that place every day."]],
    "share": [
        ["One day {N} found {thing} and wanted to keep it for {himself}.", "It was a hard winter, and {N} had only one piece of bread left.", "One day {N} had a basket full of apples."],
        ["Then {a_friend} came by. \"I am so hungry and cold,\" it said.", "Just then {a_friend} knocked at the door. \"Please, may I come in?\""],
        ["{N} thought for a moment. Then {he} smiled. \"Come in. What is mine is yours.\"", "{N} did not want to share at first, but {he} saw how tired the {friend} was."],
        ["They sat by the fire, ate together and told each other stories.", "They shared everything, and the evening was warm and merry."],
        ["In the morning the {friend} was gone, but a basket full of good food stood at the door.", "The next day the {friend} came back with all its friends, and each of them brought a gift."],
        ["So {N} learned that joy grows when we share it.", "Since then {N} has always shared, and {he} has never been poor."]],
    "treasure": [
        ["One rainy day {N} found an old map.", "One day {N} found a map inside an old bottle.", "In an old box {N} found a map with a red cross on it."],
        ["\"A treasure!\" cried {N}. {He} packed a bag and set out at once.", "{He} asked {a_friend} to come along, and the two set out at dawn."],
        ["The way was long. {He} walked {along} and over a shaky bridge.", "{He} crossed a cold river and climbed over high rocks."],
        ["At the red cross {N} began to dig.", "At last {he} came to the place on the map and dug a deep hole."],
        ["There was a box, but there was no gold in it. There was only {thing} and a letter.", "Deep in the ground was {thing}, wrapped in an old cloth, and beside it lay a letter."],
        ["\"The real treasure is the journey,\" said the letter.", "{N} laughed. \"I have seen so much on the way. That is treasure enough.\""],
        ["{N} went home tired and happy, and told the story to everyone.", "And every evening {he} told the others about the great adventure."]],
    "garden": [
        ["One spring {N} planted a tiny seed.", "One day {N} found a tiny seed and put it into the ground."],
        ["Every day {he} gave it water and sang to it.", "{He} watered it every morning and waited."],
        ["But nothing happened. The others laughed at {him}.", "Days went by, and nothing grew. \"It is no use,\" said {a_friend}."],
        ["{N} did not give up. \"Good things need time,\" {he} said.", "{N} was sad, but {he} went on every day."],
        ["Then, one warm morning, a small green leaf came out of the ground.", "After a night of rain there was a little green shoot."],
        ["It grew and grew until it was a big tree full of sweet fruit.", "Soon it was the most beautiful flower for miles around."],
        ["{N} shared the fruit with everyone, even with those who had laughed.", "Everyone came to see it, and {N} was very proud."],
        ["And {he} never forgot that patience makes things grow.", "So {N} learned to be patient."]],
    "star": [
        ["Every night {N} looked up at the stars.", "{N} loved the night sky more than anything."],
        ["One evening a little star fell from the sky and landed near {him}.", "One night a small star fell down, right in front of {him}."],
        ["\"I want to go home,\" said the star in a thin voice.", "The star was cold and its light was weak. \"Please help me,\" it said."],
        ["{N} carried the star {along} to the highest place {he} knew.", "{N} held it gently and asked {a_friend} for help. Together they climbed the highest hill."],
        ["There {he} waited for the wind, and threw the star up as high as {he} could.", "At the top a soft wind came and lifted the star up into the sky."],
        ["The star rose and rose until it was shining in its place again.", "Soon it was back among its sisters, brighter than before."],
        ["Since that night one star has winked whenever {N} looks up.", "And every night the little star shines just for {N}."]],
    "song": [
        ["{N} loved to sing, but {he} was too shy to sing for others.", "{N} could play the most beautiful songs, but nobody had ever heard them."],
        ["One day there was a big feast, but the musicians did not come.", "One evening everyone was sad because of the long rain."],
        ["\"Who will make music for us?\" asked {a_friend}.", "\"If only we had a song,\" said {a_friend}."],
        ["{N} stood up slowly. {His} voice was quiet at first.", "{N} closed {his} eyes and began very softly."],
        ["Then it grew louder and clearer, and everyone listened.", "Soon the others joined in, and the song filled the air."],
        ["When the song was over, there was a moment of silence, and then they all cheered.", "The rain stopped, the clouds went away, and everyone danced."],
        ["From then on, {N} sang every evening, and {he} was shy no more.", "\"Why did you never sing before?\" asked the {friend}. {N} only smiled."]],
    "home": [
        ["{N} wanted to see the world.", "{N} was bored at home and dreamed of faraway places."],
        ["So one morning {he} packed a small bag and walked away {along}.", "One day {he} said goodbye and set out."],
        ["{He} saw high mountains and wide seas.", "{He} saw big cities, dark forests and golden fields."],
        ["On the way {he} met {a_friend}, and they travelled together for a while.", "{He} met {a_friend} that told {him} wonderful stories."],
        ["But after many days {N} began to miss {his} own bed.", "But one night, under a strange sky, {N} thought of home."],
        ["\"The world is wide and beautiful,\" {he} said, \"but my home is where I am loved.\"", "\"I have seen enough,\" said {N}. \"Now I want to go home.\""],
        ["When {he} came back, everyone was waiting for {him} with a warm meal.", "{He} hurried home, and that evening {he} told stories until late."]],
    "storm": [
        ["One night there was a terrible storm.", "One evening dark clouds came up, and the wind began to howl."],
        ["{N} stayed inside and listened to the rain.", "The rain fell so hard that {N} could not sleep."],
        ["Then there was a knock. Outside stood {a_friend}, wet and cold.", "Suddenly {he} heard a cry. {A_friend} had lost its home in the storm."],
        ["\"Come in quickly!\" said {N}, and {he} gave the {friend} a blanket and some warm soup.", "{N} brought the {friend} inside and made a fire."],
        ["In the morning the sun was shining, but the home of the {friend} was broken.", "When the storm was over, they went out to see what was left."],
        ["\"We will build a new one,\" said {N}. They worked together for three days.", "All the neighbours came, and together they built a new house."],
        ["It was even better than the old one.", "In the evening they sat in front of it and watched the sun go down."],
        ["\"After every storm the sun comes back,\" said {N}.", "And the {friend} lived next to {N} from then on."]],
    "invent": [
        ["{N} liked to build things.", "{N} always had a new idea."],
        ["One day {he} built a small machine that could fly.", "One day {he} made a machine out of old wheels and {thing}."],
        ["\"That will never work,\" said {a_friend}.", "Everyone laughed, and {a_friend} shook its head."],
        ["The first time, it fell apart. The second time, it went the wrong way.", "And it was true: the machine made a loud noise and broke."],
        ["But {N} tried again. {He} changed one small thing every day.", "{N} learned from each mistake and built it again, a little better."],
        ["On the tenth day the machine rose up into the air and flew {along}.", "At last the machine began to hum, and it worked!"],
        ["\"You never gave up,\" said the {friend}. \"I am proud of you.\"", "Even the {friend} cheered, and {N} gave it the first ride."]],
    "moral": [
        ["{N} often told lies for fun.", "{N} liked to play tricks on everyone."],
        ["\"Help, help!\" {he} would shout, and when the others came running, {he} laughed.", "Again and again {he} called for help when there was no danger."],
        ["One day {he} was really in trouble. {He} had fallen into the water.", "Then one day a real danger came, and {N} called for help."],
        ["But nobody came, because nobody believed {him}.", "The others heard {him}, but they thought it was only another trick."],
        ["Only {a_friend} came to look, and it pulled {him} out just in time.", "At the last moment {a_friend} came and saved {him}."],
        ["\"I am sorry,\" said {N}. \"I will never lie again.\"", "{N} was ashamed and said sorry to everyone."],
        ["And {he} kept the promise.", "From that day on, {N} told the truth, and everyone trusted {him} again."]],
}
FEARS = words("the dark, the dark, deep water, water, storms, thunder, heights, strangers, dogs, ghosts, loud noises, the forest, flying, the night, snakes, people, everything, snow, big waves")
# What the question may say about the hero, by plot.
TRAITS = {
    "lost": ["who lost {thing}", "who has lost {thing}", "who cannot find {thing}"], "help": ["who helps someone", "who helps others", "who saves someone", "who is very kind"],
    "brave": ["who is afraid of {fear}", "who was afraid of {fear}", "that is scared of {fear}", "who fears {fear}"], "race": ["who wins a race", "who runs a race", "who is very slow"],
    "fair": ["who stops to help in a race", "who loses a race"], "friend": ["who has no friends", "who is looking for a friend", "who is lonely", "who finds a friend", "who wants a friend"],
    "share": ["who learns to share", "who shares everything", "who does not want to share"], "treasure": ["who finds a treasure", "who finds a map", "who looks for a treasure", "who goes on an adventure"],
    "garden": ["who plants a seed", "who is very patient", "who has a garden", "who grows a tree"], "star": ["who finds a star", "who loves the stars", "who helps a star"],
    "song": ["who loves to sing", "who likes music", "who is shy", "who can sing"], "home": ["who wants to see the world", "who travels", "who leaves home", "who goes on a journey"],
    "storm": ["in a storm", "who lives through a storm", "and a storm"], "invent": ["who builds a machine", "who invents something", "who wants to fly", "who never gives up"],
    "moral": ["who tells lies", "who lies", "who plays tricks", "who learns to tell the truth"]}
END = ["", "", "", " The end.", " And they lived happily ever after.", " And if you listen on a quiet evening, you can still hear them laugh."]
TITLES = ["{N} and the {obj}", "The {adj} {hero}", "{N} the {hero}", "A Friend for {N}", "{N}'s Great Day"]


def article(noun):
    return ("an " if noun[0].lower() in "aeiou" and not noun.startswith(("uni", "one")) else "a ") + noun


def fix_articles(text):
    words_ = text.split(" ")
    for i in range(len(words_) - 1):
        if words_[i] in ("a", "A", "\"a", "\"A") and words_[i + 1][:1].lower() in "aeiou" and not words_[i + 1].startswith(("uni", "one", "used")):
            words_[i] += "n"
    return " ".join(words_)


ONSETS = words("b, c, d, f, g, h, j, k, l, m, n, p, r, s, t, v, w, z, br, cr, dr, fr, gr, tr, bl, cl, fl, gl, pl, sl, st, sp, sk, sh, ch, th, ph, qu, kn, sw, y, x") + [""] * 4
VOWELS = words("a, a, e, e, i, i, o, o, u, y, ai, ea, ee, ia, ie, io, oa, oo, ou, ei, au")
CODAS = words("n, n, r, l, s, t, m, d, k, b, g, p, x, ck, ll, nn, nd, rt, st, th, sh, ng, rd, ss, tt, ph, ns") + [""] * 14
NAMES = words("""Amelia, Bob, Alex, Sarah, John, Mary, David, Laura, Michael, Julia, Robert, Linda, James, Susan, William, Karen, Thomas, Jessica, Daniel, Sophie, Mark, Olivia, Charlie, Isabella,
George, Mila, Frank, Charlotte, Harry, Hannah, Adam, Rachel, Simon, Eva, Martin, Nina, Steve, Amy, Kevin, Claire, Brian, Helen, Eric, Diana, Patrick, Monica, Ali, Fatima, Omar, Leila, Chen, Yuki, Hiro, Mei,
Raj, Priya, Ivan, Olga, Sven, Astrid, Lars, Ingrid, Pierre, Marie, Carlos, Elena, Diego, Carmen, Luca, Giulia, Marco, Bianca, Hans, Heidi, Klaus, Petra, Stefan, Lena, Jan, Eliza, Grace, Rose, Violet,
Abigail, Samuel, Benjamin, Joseph, Edward, Arthur, Oliver, Liam, Ethan, Logan, Lucas, Mason, Aiden, Ellie, Chloe, Stella, Penelope, Aurora, Naomi, Tina, Wanda, Zelda, Quentin, Xavier, Yara, Ursula, Viktor""")


def made_up_word(rng):
    """A word that nobody has seen before, so that it has to be copied."""
    n = rng.choice([1, 2, 2, 2, 3, 3])
    return "".join(rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if i == n - 1 or rng.random() < 0.4 else "") for i in range(n))


def made_up_name(rng):
    return made_up_word(rng).capitalize()


def any_name(rng):
    """A name for prompts that ask to copy it: often one that is in no list."""
    k = rng.random()
    return made_up_name(rng) if k < 0.5 else rng.choice(NAMES) if k < 0.75 else rng.choice(GIRLS + BOYS)


def story(rng, hero=None, name=None, place=None, friend=None, plot=None, short=False, thing=None, fear=None):
    """A story as text. Arguments that are given are kept; the rest is drawn."""
    hero = hero or rng.choice(HEROES)
    girl = hero in FEMALE or (hero not in MALE and (name in GIRLS if name else rng.random() < 0.5))
    if name in BOYS and hero not in FEMALE:
        girl = False
    name = name or (made_up_name(rng) if rng.random() < 0.1 else rng.choice(GIRLS if girl else BOYS))
    place = PLACE[place] if place else rng.choice(PLACES)
    animals = [a for a in (x[0] for x in ANIMALS) if a != hero]
    friend = friend or rng.choice(animals)
    other = rng.choice([a for a in animals if a != friend])
    thing = thing or rng.choice(THINGS)
    adj = rng.choice(ADJ if " " not in hero else words("kind, brave, clever, shy, curious, gentle, cheerful, lonely, friendly, quiet"))
    plot = plot or rng.choice(sorted(PLOTS))
    fear = fear or rng.choice(FEARS)
    values = dict(fear=fear, N=name, hero=hero, adj=adj, thing=thing, in_place=place[1], along=place[2], friend=friend, other=other,
                  a_friend=article(friend), A_friend=article(friend).capitalize(), a_other=article(other), obj=thing.split(" ", 1)[1].title(),
                  he="she" if girl else "he", He="She" if girl else "He", him="her" if girl else "him",
                  his="her" if girl else "his", His="Her" if girl else "His", himself="herself" if girl else "himself")
    parts = [rng.choice(OPEN)] + [rng.choice(beat) for beat in PLOTS[plot]]
    if not short and rng.random() < 0.5:
        cut = rng.randrange(3, len(parts) - 1)
        text = " ".join(parts[:cut]) + "\n\n" + " ".join(parts[cut:])
    else:
        text = " ".join(parts)
    # "after {thing}" names it the second time: "the red ball" reads better than "a red ball"
    first, sep, rest = text.partition("{thing}")
    the = "the " + thing.split(" ", 1)[1]
    text = first + sep + rest.replace("have lost {thing}", "have lost " + thing).replace("{thing}", the)
    text = fix_articles(text.format(**values)) + rng.choice(END)
    title = None
    if rng.random() < 0.08:
        title = rng.choice(TITLES).format(**values).title().replace("'S", "'s")
        text = f"**{title}**\n\n{text}"
    return text


def _hero_phrase(rng, hero):
    return article((rng.choice(ADJ) + " " if rng.random() < 0.3 else "") + hero)


def ask_story(rng):
    """(question, story)"""
    kind = rng.random()
    kw = {}
    verb = rng.choice(["Tell me", "Tell me", "Tell me", "Tell", "Write", "Write me", "Can you tell me", "Please tell me", "Please write", "Could you write", "I would like to hear",
                       "I want", "Make up", "Give me", "Can you write", "Would you tell me", "Invent"])
    noun = rng.choice(["a story", "a short story", "a short story", "a little story", "a bedtime story", "a fairy tale", "a nice story", "a very short story", "a funny story", "a happy story", "a tale",
                       "a story for children", "a children's story"])
    hero = rng.choice(HEROES)
    if kind < 0.12:
        q = f"{verb} {noun}"
    elif kind < 0.27:
        kw.update(hero=hero, plot=rng.choice(sorted(TRAITS)), thing=rng.choice(THINGS), fear=rng.choice(FEARS))
        if rng.random() < 0.3:
            kw["plot"] = "brave"
        q = f"{verb} {noun} about {_hero_phrase(rng, hero)} {rng.choice(TRAITS[kw['plot']]).format(**kw)}"
    elif kind < 0.31:
        q = rng.choice(["Once upon a time", "Once upon a time there was", "Continue this story: Once upon a time", "Begin a story with: Once upon a time"])
        while True:
            text = story(rng)
            if text.startswith("Once upon a time"):
                return q, text
    elif kind < 0.55:
        kw["hero"] = hero
        q = f"{verb} {noun} {rng.choice(['about', 'about', 'about', 'with', 'of'])} {_hero_phrase(rng, hero)}"
    elif kind < 0.68:
        kw.update(hero=hero, place=rng.choice(PLACES)[0])
        where = PLACE[kw["place"]][1]
        q = f"{verb} {noun} about {_hero_phrase(rng, hero)} {where}"
        if rng.random() < 0.5:
            q = f"{verb} {noun} about {_hero_phrase(rng, hero)}. It should take place {where}"
    elif kind < 0.84:
        name = any_name(rng)
        if hero in FEMALE and name in BOYS or hero in MALE and name in GIRLS:
            hero = "fox"
        kw.update(hero=hero, name=name)
        q = f"{verb} {noun} about {_hero_phrase(rng, hero)} {rng.choice(['named', 'called', 'with the name'])} {name}"
    elif kind < 0.94:
        friend = rng.choice([a[0] for a in ANIMALS if a[0] != hero])
        kw.update(hero=hero, friend=friend, plot=rng.choice(["lost", "help", "friend", "share", "storm", "race", "brave", "song"]))
        q = f"{verb} {noun} about {_hero_phrase(rng, hero)} and {article(friend)}"
    else:
        thing = rng.choice(THINGS)
        kw.update(thing=thing, plot=rng.choice(["lost", "treasure"]))
        q = f"{verb} {noun} about {thing}"
    q += rng.choice([".", ".", ".", "", "!", ", please."])
    if q.split()[0] in ("Can", "Could", "Would"):
        q = q.rstrip(".!") + "?"
    return q, story(rng, **kw)


MORALS = {"lost": "Friends can help us to find what we have lost.", "help": "Kindness comes back.", "brave": "Being brave means to go on even when you are afraid.",
          "race": "Do not be too proud, and do not give up.", "fair": "A friend is worth more than a prize.", "friend": "To find a friend, be a friend.", "share": "Joy grows when we share it.",
          "treasure": "The journey itself is the treasure.", "garden": "Be patient, and do not give up.", "star": "Small helpers can do great things.",
          "song": "Do not hide your gifts.", "home": "Home is where you are loved.", "storm": "After every storm the sun comes back.",
          "invent": "Learn from mistakes and try again.", "moral": "Tell the truth, so that others can trust you."}


def story_chat(rng):
    """A story and one or two follow-up questions about it."""
    hero, plot = rng.choice(HEROES), rng.choice(sorted(PLOTS))
    name = rng.choice(GIRLS if hero in FEMALE else BOYS if hero in MALE else GIRLS + BOYS)
    place = rng.choice(PLACES)
    turns = [(f"Tell me a {rng.choice(['short ', 'little ', ''])}story about {_hero_phrase(rng, hero)}.", story(rng, hero=hero, plot=plot, name=name, place=place[0], short=True))]
    follow = [
        (["What is the moral of the story?", "What can we learn from it?", "And the moral?", "What does the story teach us?"], MORALS[plot]),
        ([f"What was the name of the {hero}?", "What was the hero's name?", "Who was the story about?", "What is the name of the main character?"], f"The {hero} was called {name}."),
        (["Where did the story take place?", f"Where did {name} live?", "Where did it happen?"], f"{name} lived {place[1]}."),
        (["Thank you!", "That was nice.", "I liked that story.", "What a nice story!", "Lovely!"], "I am glad that you liked it! Would you like to hear another one?"),
    ]
    for qs, a in rng.sample(follow, rng.choice([1, 1, 2, 3])):
        turns.append((rng.choice(qs), a))
    if rng.random() < 0.3:
        turns.append((rng.choice(["Another one, please.", "Tell me another one.", "One more story!", "Tell me a different story."]), story(rng)))
    return turns
