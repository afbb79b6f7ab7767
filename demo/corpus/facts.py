"""Curated facts that the question generators turn into conversations. Data only."""


def rows(text):
    """Lines of 'a | b | c' as tuples of stripped fields."""
    return [tuple(f.strip() for f in line.split("|")) for line in text.strip().splitlines()]


def words(text):
    """Comma-separated items."""
    return [w.strip() for w in text.replace("\n", " ").split(",") if w.strip()]


# country | capital | continent | language
COUNTRIES = rows("""
France | Paris | Europe | French
Germany | Berlin | Europe | German
Italy | Rome | Europe | Italian
Spain | Madrid | Europe | Spanish
Portugal | Lisbon | Europe | Portuguese
England | London | Europe | English
the United Kingdom | London | Europe | English
Ireland | Dublin | Europe | English and Irish
Scotland | Edinburgh | Europe | English
Wales | Cardiff | Europe | English and Welsh
the Netherlands | Amsterdam | Europe | Dutch
Belgium | Brussels | Europe | Dutch, French and German
Luxembourg | Luxembourg City | Europe | Luxembourgish
Switzerland | Bern | Europe | German, French and Italian
Austria | Vienna | Europe | German
Denmark | Copenhagen | Europe | Danish
Norway | Oslo | Europe | Norwegian
Sweden | Stockholm | Europe | Swedish
Finland | Helsinki | Europe | Finnish
Iceland | Reykjavik | Europe | Icelandic
Poland | Warsaw | Europe | Polish
the Czech Republic | Prague | Europe | Czech
Slovakia | Bratislava | Europe | Slovak
Hungary | Budapest | Europe | Hungarian
Romania | Bucharest | Europe | Romanian
Bulgaria | Sofia | Europe | Bulgarian
Greece | Athens | Europe | Greek
Croatia | Zagreb | Europe | Croatian
Serbia | Belgrade | Europe | Serbian
Slovenia | Ljubljana | Europe | Slovene
Albania | Tirana | Europe | Albanian
Estonia | Tallinn | Europe | Estonian
Latvia | Riga | Europe | Latvian
Lithuania | Vilnius | Europe | Lithuanian
Ukraine | Kyiv | Europe | Ukrainian
Malta | Valletta | Europe | Maltese and English
Russia | Moscow | Europe and Asia | Russian
Turkey | Ankara | Europe and Asia | Turkish
China | Beijing | Asia | Chinese
Japan | Tokyo | Asia | Japanese
South Korea | Seoul | Asia | Korean
India | New Delhi | Asia | Hindi and English
Nepal | Kathmandu | Asia | Nepali
Thailand | Bangkok | Asia | Thai
Vietnam | Hanoi | Asia | Vietnamese
Indonesia | Jakarta | Asia | Indonesian
the Philippines | Manila | Asia | Filipino and English
Malaysia | Kuala Lumpur | Asia | Malay
Mongolia | Ulaanbaatar | Asia | Mongolian
Pakistan | Islamabad | Asia | Urdu and English
Iran | Tehran | Asia | Persian
Iraq | Baghdad | Asia | Arabic and Kurdish
Saudi Arabia | Riyadh | Asia | Arabic
Jordan | Amman | Asia | Arabic
Lebanon | Beirut | Asia | Arabic
Egypt | Cairo | Africa | Arabic
Morocco | Rabat | Africa | Arabic and Berber
Tunisia | Tunis | Africa | Arabic
Algeria | Algiers | Africa | Arabic and Berber
Kenya | Nairobi | Africa | Swahili and English
Ethiopia | Addis Ababa | Africa | Amharic
Nigeria | Abuja | Africa | English
Ghana | Accra | Africa | English
Senegal | Dakar | Africa | French
Uganda | Kampala | Africa | English and Swahili
Madagascar | Antananarivo | Africa | Malagasy and French
South Africa | Pretoria | Africa | many languages, among them Zulu, Afrikaans and English
the United States | Washington, D.C. | North America | English
the USA | Washington, D.C. | North America | English
Canada | Ottawa | North America | English and French
Mexico | Mexico City | North America | Spanish
Cuba | Havana | North America | Spanish
Jamaica | Kingston | North America | English
Costa Rica | San José | North America | Spanish
Panama | Panama City | North America | Spanish
Brazil | Brasília | South America | Portuguese
Argentina | Buenos Aires | South America | Spanish
Chile | Santiago | South America | Spanish
Peru | Lima | South America | Spanish
Colombia | Bogotá | South America | Spanish
Ecuador | Quito | South America | Spanish
Venezuela | Caracas | South America | Spanish
Uruguay | Montevideo | South America | Spanish
Paraguay | Asunción | South America | Spanish and Guaraní
Australia | Canberra | Oceania | English
New Zealand | Wellington | Oceania | English and Māori
Fiji | Suva | Oceania | English and Fijian
""")

# animal | class | young | sound (a verb) | legs | home | food | a sentence
ANIMALS = rows("""
dog | mammal | puppy | barks | 4 | in a home with people | meat and dog food | Dogs have a wonderful sense of smell and are loyal friends.
cat | mammal | kitten | meows | 4 | in a home with people | meat, fish and mice | Cats sleep for most of the day and can see well in dim light.
cow | mammal | calf | moos | 4 | on a farm | grass | Cows give milk and chew their food twice.
horse | mammal | foal | neighs | 4 | on a farm or in open fields | grass and hay | Horses can sleep standing up.
sheep | mammal | lamb | bleats | 4 | on a farm | grass | The wool of sheep is used to make warm clothes.
goat | mammal | kid | bleats | 4 | on farms and in mountains | grass and leaves | Goats are very good climbers.
pig | mammal | piglet | grunts | 4 | on a farm | almost anything | Pigs are clever and like to roll in mud to stay cool.
donkey | mammal | foal | brays | 4 | on a farm | grass and hay | Donkeys are strong and can carry heavy loads.
lion | mammal | cub | roars | 4 | on the African grasslands | meat | Lions live in family groups called prides.
tiger | mammal | cub | roars | 4 | in the forests of Asia | meat | Tigers are the largest cats, and no two have the same stripes.
leopard | mammal | cub | growls | 4 | in Africa and Asia | meat | Leopards are strong climbers and often rest in trees.
bear | mammal | cub | growls | 4 | in forests and mountains | berries, fish and plants | Many bears sleep through the winter.
polar bear | mammal | cub | growls | 4 | in the Arctic | seals | Polar bears have thick white fur and swim very well.
panda | mammal | cub | bleats | 4 | in the bamboo forests of China | bamboo | Pandas spend most of the day eating.
wolf | mammal | pup | howls | 4 | in forests and on open land | meat | Wolves live and hunt together in packs.
fox | mammal | cub | barks | 4 | in a den in woods and fields | mice, birds and berries | Foxes are clever and have bushy tails.
elephant | mammal | calf | trumpets | 4 | in Africa and Asia | grass, leaves and fruit | Elephants are the largest land animals and use their trunks like a hand.
giraffe | mammal | calf | hums | 4 | on the African grasslands | leaves | Giraffes are the tallest animals in the world.
zebra | mammal | foal | barks | 4 | on the African grasslands | grass | Every zebra has its own pattern of stripes.
hippo | mammal | calf | grunts | 4 | in the rivers and lakes of Africa | grass | Hippos spend the day in water to stay cool.
rhinoceros | mammal | calf | snorts | 4 | in Africa and Asia | grass and leaves | A rhinoceros has one or two horns on its nose.
camel | mammal | calf | grunts | 4 | in the desert | dry grass and leaves | Camels store fat in their humps and can go for days without water.
kangaroo | mammal | joey | clucks | 4 | in Australia | grass | Kangaroos hop on strong back legs and carry their young in a pouch.
koala | mammal | joey | grunts | 4 | in the trees of Australia | eucalyptus leaves | Koalas sleep for up to twenty hours a day.
monkey | mammal | infant | chatters | 4 | in warm forests | fruit, leaves and insects | Monkeys are clever and climb very well.
gorilla | mammal | infant | grunts | 4 | in the forests of Africa | leaves and fruit | Gorillas are the largest of the great apes.
rabbit | mammal | kit | squeaks | 4 | in a burrow | grass and vegetables | Rabbits have long ears and can hop very fast.
hare | mammal | leveret | squeaks | 4 | in open fields | grass | Hares run faster than rabbits and do not dig burrows.
mouse | mammal | pup | squeaks | 4 | in small nests and holes | seeds and grain | Mice are small, quick and very careful.
rat | mammal | pup | squeaks | 4 | in burrows and near people | almost anything | Rats are clever and learn quickly.
squirrel | mammal | kit | chatters | 4 | in trees | nuts and seeds | Squirrels hide nuts in the autumn for the winter.
hedgehog | mammal | hoglet | snuffles | 4 | in gardens and woods | beetles, worms and slugs | Hedgehogs roll into a ball of spines when they are afraid.
beaver | mammal | kit | slaps its tail | 4 | in rivers and ponds | bark and plants | Beavers build dams with wood and mud.
otter | mammal | pup | whistles | 4 | in rivers and by the sea | fish and crabs | Sea otters hold hands while they sleep so that they do not drift apart.
badger | mammal | cub | growls | 4 | in a burrow called a sett | worms, fruit and roots | Badgers have black and white stripes on their faces.
deer | mammal | fawn | bleats | 4 | in woods and fields | grass and leaves | Male deer grow new antlers every year.
bat | mammal | pup | squeaks | 2 | in caves and trees | insects and fruit | Bats are the only mammals that can truly fly.
whale | mammal | calf | sings | 0 | in the ocean | krill and fish | The blue whale is the largest animal that has ever lived.
dolphin | mammal | calf | clicks and whistles | 0 | in the ocean | fish | Dolphins are clever and breathe air at the surface.
seal | mammal | pup | barks | 0 | on cold coasts | fish | Seals have flippers and thick fat to keep them warm.
chicken | bird | chick | clucks | 2 | on a farm | seeds and insects | A female chicken is called a hen and lays eggs.
rooster | bird | chick | crows | 2 | on a farm | seeds and insects | Roosters crow early in the morning.
duck | bird | duckling | quacks | 2 | on ponds and lakes | plants and small water animals | Ducks have webbed feet and feathers that keep out water.
goose | bird | gosling | honks | 2 | near lakes and rivers | grass | Geese often fly in the shape of a V.
swan | bird | cygnet | honks | 2 | on lakes and rivers | water plants | Swans have long necks and often stay together for life.
turkey | bird | poult | gobbles | 2 | on farms and in woods | seeds, nuts and insects | Wild turkeys sleep in trees.
owl | bird | owlet | hoots | 2 | in woods and barns | mice and other small animals | Owls hunt at night and can turn their heads very far.
eagle | bird | eaglet | screams | 2 | in mountains and near lakes | fish and small animals | Eagles can see a small animal from very far away.
parrot | bird | chick | squawks | 2 | in warm forests | seeds, nuts and fruit | Some parrots can copy human words.
penguin | bird | chick | squawks | 2 | on cold southern coasts | fish | Penguins cannot fly, but they swim very well.
ostrich | bird | chick | booms | 2 | on the African grasslands | plants and seeds | The ostrich is the largest bird and cannot fly.
crow | bird | chick | caws | 2 | in towns, fields and woods | almost anything | Crows are very clever and can use tools.
robin | bird | chick | sings | 2 | in gardens and woods | worms and insects | Robins have red breasts and like to sing.
pigeon | bird | squab | coos | 2 | in towns and on cliffs | seeds | Pigeons can find their way home from far away.
frog | amphibian | tadpole | croaks | 4 | in and near ponds | insects | Frogs start life in water as tadpoles.
toad | amphibian | tadpole | croaks | 4 | in gardens and woods | insects and worms | Toads have dry, bumpy skin.
snake | reptile | hatchling | hisses | 0 | in many warm places | mice, eggs and other animals | Snakes smell the air with their tongues.
lizard | reptile | hatchling | hisses | 4 | in warm, sunny places | insects | Many lizards can drop their tails to escape.
crocodile | reptile | hatchling | hisses | 4 | in warm rivers | fish and other animals | Crocodiles have lived on Earth since the time of the dinosaurs.
turtle | reptile | hatchling | hisses | 4 | in the sea, ponds and rivers | plants and small animals | Turtles carry a hard shell and can live for a very long time.
tortoise | reptile | hatchling | hisses | 4 | on dry land | plants | Tortoises are slow and can live for more than one hundred years.
fish | fish | fry | makes almost no sound | 0 | in water | plants and small animals | Fish breathe with gills.
shark | fish | pup | makes almost no sound | 0 | in the ocean | fish and other sea animals | Sharks have many rows of teeth and keep growing new ones.
salmon | fish | fry | makes almost no sound | 0 | in rivers and the sea | insects and small fish | Salmon swim up rivers to lay their eggs.
bee | insect | larva | buzzes | 6 | in a hive | nectar and pollen | Bees make honey and help flowers to grow.
ant | insect | larva | makes almost no sound | 6 | in a nest called a colony | seeds, insects and sweet things | Ants can carry many times their own weight.
butterfly | insect | caterpillar | makes almost no sound | 6 | in gardens and meadows | nectar | A butterfly begins its life as a caterpillar.
fly | insect | maggot | buzzes | 6 | almost everywhere | almost anything | Flies taste with their feet.
ladybird | insect | larva | makes almost no sound | 6 | in gardens | tiny insects | Ladybirds are red with black spots and help gardeners.
grasshopper | insect | nymph | chirps | 6 | in grass and meadows | grass and leaves | Grasshoppers can jump many times their own length.
spider | arachnid | spiderling | makes almost no sound | 8 | in webs, gardens and houses | insects | Spiders make silk, and many use it to spin webs.
crab | crustacean | larva | clicks | 10 | on the shore and in the sea | almost anything | Crabs walk sideways and have two claws.
octopus | mollusc | larva | makes almost no sound | 8 | in the sea | crabs and shellfish | An octopus has eight arms and three hearts.
snail | mollusc | hatchling | makes almost no sound | 0 | in gardens | leaves | Snails carry their homes on their backs.
""")

# thing | colour | plural? (are/is)
COLOURS = rows("""
the sky on a clear day | blue | is
the sky | blue | is
grass | green | is
the sun | yellow | is
snow | white | is
milk | white | is
a lemon | yellow | is
a banana | yellow | is
a ripe tomato | red | is
a strawberry | red | is
a cherry | red | is
an orange | orange | is
a carrot | orange | is
a pumpkin | orange | is
a cucumber | green | is
coal | black | is
the night sky | black | is
blood | red | is
chocolate | brown | is
a tree trunk | brown | is
an elephant | grey | is
a mouse | grey or brown | is
a polar bear | white | is
a crow | black | is
a flamingo | pink | is
a frog | usually green | is
a fox | reddish orange | is
a fire engine | usually red | is
the sea | blue | is
lavender | purple | is
an aubergine | purple | is
a plum | purple | is
gold | yellow | is
silver | shiny grey | is
leaves in summer | green | are
leaves in autumn | red, orange, yellow and brown | are
clouds | white or grey | are
peas | green | are
bananas | yellow | are
strawberries | red | are
zebras | black and white | are
pandas | black and white | are
sunflowers | yellow | are
roses | often red, but they can also be white, pink or yellow | are
apples | red, green or yellow | are
grapes | green or purple | are
""")

OPPOSITES = rows("""
hot | cold
big | small
large | small
tall | short
long | short
fast | slow
happy | sad
light | dark
day | night
up | down
left | right
in | out
inside | outside
open | closed
full | empty
old | young
old | new
good | bad
right | wrong
true | false
rich | poor
strong | weak
hard | soft
easy | difficult
heavy | light
wet | dry
clean | dirty
early | late
loud | quiet
high | low
deep | shallow
near | far
front | back
top | bottom
first | last
begin | end
start | finish
buy | sell
give | take
push | pull
win | lose
love | hate
laugh | cry
awake | asleep
alive | dead
brave | afraid
kind | cruel
polite | rude
thick | thin
wide | narrow
sharp | blunt
smooth | rough
sweet | sour
black | white
yes | no
always | never
everything | nothing
above | below
before | after
summer | winter
north | south
east | west
friend | enemy
question | answer
arrive | leave
come | go
remember | forget
safe | dangerous
simple | complicated
cheap | expensive
beautiful | ugly
ancient | modern
major | minor
more | less
most | least
many | few
success | failure
war | peace
increase | decrease
accept | refuse
build | destroy
float | sink
freeze | melt
appear | disappear
possible | impossible
visible | invisible
lucky | unlucky
tidy | messy
lazy | hard-working
generous | greedy
bright | dim
calm | stormy
guilty | innocent
public | private
same | different
tight | loose
""")

SYNONYMS = rows("""
big | large
small | little
happy | glad
sad | unhappy
fast | quick
smart | clever
begin | start
end | finish
angry | cross
pretty | beautiful
easy | simple
hard | difficult
scared | afraid
tired | sleepy
brave | courageous
quiet | silent
funny | amusing
strange | odd
rich | wealthy
sick | ill
shout | yell
jump | leap
look | watch
talk | speak
help | assist
gift | present
house | home
road | street
stone | rock
ocean | sea
kind | gentle
rest | relax
walk | stroll
error | mistake
correct | right
near | close
cold | chilly
hot | boiling
old | ancient
new | fresh
""")

PLURALS = rows("""
mouse | mice
child | children
man | men
woman | women
foot | feet
tooth | teeth
goose | geese
person | people
ox | oxen
sheep | sheep
fish | fish
deer | deer
leaf | leaves
wolf | wolves
knife | knives
wife | wives
life | lives
shelf | shelves
half | halves
loaf | loaves
baby | babies
city | cities
story | stories
lady | ladies
puppy | puppies
berry | berries
butterfly | butterflies
country | countries
box | boxes
fox | foxes
bus | buses
class | classes
dish | dishes
watch | watches
church | churches
potato | potatoes
tomato | tomatoes
hero | heroes
cat | cats
dog | dogs
book | books
tree | trees
house | houses
car | cars
bird | birds
apple | apples
key | keys
day | days
boy | boys
toy | toys
star | stars
river | rivers
flower | flowers
table | tables
piano | pianos
cactus | cacti
""")

PAST = rows("""
go | went
see | saw
eat | ate
run | ran
come | came
take | took
give | gave
make | made
do | did
have | had
say | said
know | knew
think | thought
find | found
get | got
tell | told
feel | felt
leave | left
bring | brought
buy | bought
catch | caught
teach | taught
write | wrote
speak | spoke
break | broke
choose | chose
drive | drove
fly | flew
swim | swam
sing | sang
drink | drank
begin | began
sleep | slept
keep | kept
build | built
send | sent
lose | lost
win | won
sit | sat
stand | stood
hear | heard
hold | held
meet | met
read | read
grow | grew
throw | threw
draw | drew
fall | fell
forget | forgot
hide | hid
ride | rode
wear | wore
walk | walked
play | played
jump | jumped
cook | cooked
like | liked
help | helped
stop | stopped
cry | cried
try | tried
dance | danced
""")

# English | French | Spanish | German | Italian
TRANSLATIONS = rows("""
hello | bonjour | hola | hallo | ciao
goodbye | au revoir | adiós | auf Wiedersehen | arrivederci
thank you | merci | gracias | danke | grazie
please | s'il vous plaît | por favor | bitte | per favore
yes | oui | sí | ja | sì
no | non | no | nein | no
water | eau | agua | Wasser | acqua
bread | pain | pan | Brot | pane
milk | lait | leche | Milch | latte
cat | chat | gato | Katze | gatto
dog | chien | perro | Hund | cane
horse | cheval | caballo | Pferd | cavallo
bird | oiseau | pájaro | Vogel | uccello
fish | poisson | pez | Fisch | pesce
house | maison | casa | Haus | casa
tree | arbre | árbol | Baum | albero
flower | fleur | flor | Blume | fiore
sun | soleil | sol | Sonne | sole
moon | lune | luna | Mond | luna
star | étoile | estrella | Stern | stella
sea | mer | mar | Meer | mare
day | jour | día | Tag | giorno
night | nuit | noche | Nacht | notte
red | rouge | rojo | rot | rosso
blue | bleu | azul | blau | blu
green | vert | verde | grün | verde
white | blanc | blanco | weiß | bianco
black | noir | negro | schwarz | nero
one | un | uno | eins | uno
two | deux | dos | zwei | due
three | trois | tres | drei | tre
friend | ami | amigo | Freund | amico
book | livre | libro | Buch | libro
school | école | escuela | Schule | scuola
apple | pomme | manzana | Apfel | mela
love | amour | amor | Liebe | amore
good morning | bonjour | buenos días | guten Morgen | buongiorno
good night | bonne nuit | buenas noches | gute Nacht | buonanotte
mother | mère | madre | Mutter | madre
father | père | padre | Vater | padre
""")

NUMBERS = words("""zero, one, two, three, four, five, six, seven, eight, nine, ten, eleven, twelve, thirteen,
fourteen, fifteen, sixteen, seventeen, eighteen, nineteen, twenty""")
DAYS = words("Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday")
MONTHS = words("January, February, March, April, May, June, July, August, September, October, November, December")
MONTH_DAYS = [31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31]
SEASONS = words("spring, summer, autumn, winter")
ORDINALS = words("first, second, third, fourth, fifth, sixth, seventh, eighth, ninth, tenth, eleventh, twelfth")
PLANETS = words("Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune")

# kind (plural) | items
CATEGORIES = [(r[0], words(r[1])) for r in rows("""
fruits | apple, banana, orange, pear, grape, mango, cherry, plum, peach, lemon, kiwi, strawberry
vegetables | carrot, potato, onion, tomato, cabbage, spinach, broccoli, cucumber, pea, leek, pumpkin, bean
animals | dog, cat, horse, elephant, lion, rabbit, fox, bear, frog, owl, wolf, giraffe
farm animals | cow, pig, sheep, goat, chicken, horse, duck, donkey
wild animals | lion, tiger, wolf, bear, fox, elephant, zebra, deer
sea animals | whale, dolphin, shark, octopus, crab, seal, turtle, starfish
birds | robin, eagle, owl, parrot, penguin, duck, swan, crow, pigeon, sparrow
insects | ant, bee, butterfly, beetle, fly, grasshopper, ladybird, dragonfly
colours | red, blue, green, yellow, orange, purple, pink, brown, black, white, grey
shapes | circle, square, triangle, rectangle, oval, star, hexagon, diamond
flowers | rose, tulip, daisy, lily, sunflower, violet, daffodil, poppy
trees | oak, pine, birch, maple, willow, ash, beech, apple tree
drinks | water, milk, tea, coffee, juice, lemonade, hot chocolate
countries | France, Japan, Brazil, Egypt, Canada, India, Australia, Kenya, Spain, Norway
cities | Paris, London, Tokyo, Cairo, Rome, Berlin, Madrid, Lima, Sydney, Nairobi
European countries | France, Germany, Italy, Spain, Poland, Norway, Greece, Portugal
languages | English, French, Spanish, German, Italian, Chinese, Arabic, Hindi, Japanese
sports | football, tennis, swimming, basketball, running, cycling, skiing, hockey
musical instruments | piano, guitar, violin, drum, flute, trumpet, cello, harp
school subjects | mathematics, history, science, music, art, geography, English
jobs | teacher, doctor, farmer, baker, nurse, cook, pilot, builder, painter, gardener
vehicles | car, bus, train, bicycle, boat, plane, truck, tram
clothes | shirt, hat, coat, sock, shoe, scarf, jacket, glove, dress
kitchen things | spoon, fork, knife, plate, cup, bowl, pan, kettle
rooms in a house | kitchen, bedroom, bathroom, living room, hall, attic
tools | hammer, saw, screwdriver, drill, spade, ladder
body parts | head, arm, leg, hand, foot, nose, ear, knee
family members | mother, father, sister, brother, grandmother, uncle, aunt, cousin
feelings | happiness, sadness, anger, fear, surprise, joy, pride
metals | iron, gold, silver, copper, tin, aluminium
planets | Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus, Neptune
oceans | Pacific, Atlantic, Indian, Arctic, Southern
continents | Africa, Asia, Europe, North America, South America, Australia, Antarctica
seasons | spring, summer, autumn, winter
days of the week | Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday
months | January, February, March, April, May, June, July, August
hobbies | reading, painting, cooking, gardening, dancing, fishing, hiking, singing
desserts | cake, ice cream, pie, pudding, biscuits, chocolate mousse
programming languages | Rust, C, Python, Swift, Java, Go, JavaScript
""")]

# word | words that rhyme
RHYMES = [(r[0], words(r[1])) for r in rows("""
cat | hat, bat, mat, rat
dog | fog, log, frog
tree | bee, sea, free, knee
star | car, far, jar
moon | spoon, soon, June
sun | fun, run, bun
night | light, bright, kite
day | play, way, say
house | mouse, blouse
blue | true, new, shoe
rain | train, plane, brain
snow | go, slow, glow
ball | tall, wall, fall
king | ring, sing, wing
bell | shell, well, tell
boat | coat, goat, note
book | cook, hook, look
cake | lake, snake, make
bed | red, head, bread
fish | dish, wish
hill | mill, still, will
nose | rose, toes, goes
time | rhyme, lime, climb
heart | start, art, part
love | dove, glove, above
""")]
