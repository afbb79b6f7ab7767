"""Short explanations, definitions, how-tos, jokes and snippets. Data only.

Blank-line separated blocks: the first line holds questions separated by '/', the rest is the answer.
"""


def blocks(text):
    """(questions, answer) pairs; the answer keeps its line breaks."""
    out = []
    for block in text.strip().split("\n\n"):
        head, _, body = block.partition("\n")
        out.append(([q.strip() for q in head.split("/")], body.strip()))
    return out


WHY = blocks("""
Why is the sky blue?/What makes the sky blue?/Explain why the sky is blue./How come the sky is blue?
Sunlight is a mix of all colours. The air scatters blue light more than red light, so blue light reaches our eyes from every part of the sky.

Why is the sunset red?/Why are sunsets red?/Why does the sky turn red in the evening?
In the evening sunlight travels a long way through the air. Most of the blue light is scattered away, so the red and orange light is left.

Why does it rain?/What causes rain?/How does rain form?/Where does rain come from?
The sun warms water, and some of it rises as vapour. High in the cold air it turns into tiny drops that form clouds. When the drops grow heavy, they fall as rain.

Why does it snow?/What causes snow?/How does snow form?
When the air in a cloud is very cold, water freezes into small ice crystals. The crystals join together and fall as snowflakes.

What causes a rainbow?/Why do we see rainbows?/How does a rainbow form?/What makes a rainbow?
A rainbow forms when sunlight shines through drops of rain. Each drop bends the light and splits it into colours, from red to violet.

What causes thunder?/Why does it thunder?/Where does thunder come from?
Lightning heats the air very quickly. The hot air expands with a loud bang, and that sound is thunder.

What is lightning?/What causes lightning?
Lightning is a giant spark of electricity between clouds, or between a cloud and the ground.

What is wind?/What causes wind?/Why does the wind blow?
Wind is moving air. The sun warms some places more than others, warm air rises, and cooler air flows in to take its place.

Why do we have day and night?/What causes day and night?/Why does it get dark at night?
The Earth turns around once every 24 hours. The side that faces the sun has day, and the other side has night.

Why do we have seasons?/What causes the seasons?/Why are there seasons?
The Earth is tilted as it travels around the sun. When our half leans towards the sun we have summer, and when it leans away we have winter.

Why does the moon change shape?/What are the phases of the moon?/Why does the moon look different each night?
The moon travels around the Earth, and the sun always lights one half of it. We see more or less of the bright half, so the moon seems to change its shape.

Why does the moon shine?/Does the moon make its own light?
The moon does not make its own light. It shines because it reflects the light of the sun.

What causes the tides?/Why are there tides?
The gravity of the moon and the sun pulls on the water of the oceans. This makes the sea rise and fall about twice a day.

Why is the sea salty?/Why is the ocean salty?/Why is sea water salty?
Rivers carry tiny amounts of salt from the rocks to the sea. The water evaporates but the salt stays, so over a very long time the sea has become salty.

Why does ice float?/Why does ice float on water?
Ice is lighter than the same amount of water, because water expands when it freezes. That is why ice floats.

Why do leaves change colour?/Why do leaves turn red in autumn?/Why do leaves fall in autumn?
In autumn trees stop making the green stuff in their leaves, called chlorophyll. Then the yellow and red colours show, and in the end the leaves fall.

Why are plants green?/Why is grass green?/Why are leaves green?
Plants are green because of chlorophyll. They use it to catch sunlight and make their food.

How do plants grow?/What do plants need to grow?/How do plants make food?
Plants need light, water, air and soil. Their leaves use sunlight to turn water and air into food, and this is called photosynthesis.

What is photosynthesis?/Explain photosynthesis./How does photosynthesis work?
Photosynthesis is how plants make food. They use sunlight to turn water and carbon dioxide into sugar, and they give off oxygen.

What is gravity?/Explain gravity./How does gravity work?/Why do things fall down?
Gravity is the force that pulls things towards each other. The Earth is very big, so its gravity pulls us and everything else down to the ground.

How do magnets work?/What is a magnet?
A magnet has a north pole and a south pole. Opposite poles pull together, equal poles push apart, and iron is pulled by both.

What is electricity?/Explain electricity.
Electricity is the movement of tiny charged particles called electrons. It can give us light, heat and power for machines.

How do airplanes fly?/How can planes fly?/Why do planes stay in the air?
The engines push a plane forward, and air flows around its wings. The shape of the wings pushes the air down, and this lifts the plane up.

How do boats float?/Why do ships float?
A ship pushes water away, and the water pushes back. Because the ship is full of air and light for its size, the water can hold it up.

How do birds fly?/Why can birds fly?
Birds have light bones, strong muscles and feathers. They push air down with their wings, and this lifts them up.

How do fish breathe?/How can fish breathe under water?
Fish breathe with gills. Water flows over the gills, and they take the oxygen out of it.

Why do we sleep?/Why do people need sleep?/Why is sleep important?
Sleep lets the body rest and repair itself. It also helps the brain to sort and keep what we learned during the day.

Why do we dream?/What are dreams?
Nobody knows for sure. Many scientists think that dreams help the brain to sort memories and feelings.

Why do we eat?/Why do we need food?
Food gives us energy and the materials that our body needs to grow and stay healthy.

Why do we need water?/Why should I drink water?/Why is water important?
Our bodies are made mostly of water. It carries food around the body, keeps us cool and helps every part to work.

Why should I brush my teeth?/Why do we brush our teeth?
Brushing removes food and germs from your teeth. That keeps them clean and helps to prevent holes and pain.

Why does my heart beat?/What does the heart do?/How does the heart work?
The heart is a strong muscle that pumps blood. The blood carries oxygen and food to every part of the body.

Why do we breathe?/What do the lungs do?/How do we breathe?
When we breathe in, our lungs take oxygen from the air. The body uses it to get energy from food, and we breathe out carbon dioxide.

What does the brain do?/What is the brain for?
The brain controls the body. It lets us think, feel, remember, move and understand what we see and hear.

Why do cats purr?/Why does my cat purr?
Cats often purr when they feel safe and happy. They may also purr to calm themselves when they are hurt or afraid.

Why do dogs bark?/Why does my dog bark?/Why do dogs wag their tails?
Dogs bark and wag their tails to tell us something. They may be happy, excited, worried, or they want to warn us.

How do bees make honey?/Where does honey come from?/Why do bees make honey?
Bees collect sweet nectar from flowers and carry it to the hive. There they dry it until it becomes thick honey, which feeds them in the winter.

Why do birds migrate?/Why do birds fly south?/Where do birds go in winter?
Many birds fly to warmer places in the autumn because there is more food. In spring they come back to raise their young.

Why do bears hibernate?/What is hibernation?/Why do some animals sleep in winter?
In winter there is little food. Some animals hibernate, which means that they sleep deeply and live on their fat until spring.

Why did the dinosaurs die out?/What happened to the dinosaurs?/How did the dinosaurs die?
Most scientists think that a huge rock from space hit the Earth about 66 million years ago. Dust blocked the sun, plants died, and most dinosaurs could not survive. Birds are their living relatives.

How does a caterpillar become a butterfly?/How is a butterfly born?
A caterpillar eats and grows, and then makes a hard case called a chrysalis. Inside, its body changes, and after some weeks a butterfly comes out.

How hot is the sun?/What is the sun?/What is the sun made of?
The sun is a star, a huge ball of hot gas, mostly hydrogen and helium. Its surface is about 5,500 degrees Celsius.

What is a star?/What are stars?/Why do stars shine?
A star is a huge ball of hot gas that gives off light and heat. The sun is our nearest star.

What is the moon?/What is the moon made of?
The moon is a ball of rock that travels around the Earth. One trip takes about 27 days.

What is the Earth?/What shape is the Earth?/Is the Earth round?
The Earth is the planet that we live on. It has the shape of a ball, and it is the third planet from the sun.

What is the solar system?/Explain the solar system.
The solar system is the sun and everything that travels around it: eight planets, their moons and many smaller rocks.

How far away is the moon?/How far is the moon from Earth?
The moon is about 384,000 kilometres from the Earth.

How far away is the sun?/How far is the sun from Earth?
The sun is about 150 million kilometres from the Earth. Its light takes about eight minutes to reach us.

How old is the Earth?/What is the age of the Earth?
The Earth is about four and a half billion years old.

What is a volcano?/How does a volcano work?/Why do volcanoes erupt?
A volcano is an opening in the ground where hot melted rock, ash and gas can come out. When the pressure below grows too strong, it erupts.

What is an earthquake?/What causes earthquakes?/Why does the ground shake?
The ground is made of huge plates that move very slowly. When they slip past each other, the ground shakes, and that is an earthquake.

How does a telescope work?/What is a telescope?
A telescope uses lenses or mirrors to gather light. It makes things that are far away, such as stars, look closer and brighter.

What is a computer?/How does a computer work?
A computer is a machine that follows instructions. It stores data, does calculations very quickly and shows the results.

What is the internet?/How does the internet work?
The internet is a huge network of computers all over the world. They send each other messages, pictures, pages and much more.

What is a computer program?/What is software?/What is a program?
A program is a list of instructions that tells a computer what to do.

What is an algorithm?/Explain what an algorithm is.
An algorithm is a list of clear steps that solves a problem, a little like a recipe.

What is artificial intelligence?/What is AI?/Explain artificial intelligence.
Artificial intelligence means computer programs that do things that normally need thinking, such as understanding language or recognising pictures.

What is machine learning?/Explain machine learning./How does machine learning work?
Machine learning means that a computer learns from examples. Instead of following fixed rules, it finds patterns in data and uses them to answer new questions.

What is a language model?/How does a language model work?/What is an LLM?/What is a large language model?
A language model is a program that has learned from a lot of text which words are likely to come next. It writes an answer one small piece at a time.

What is a neural network?/Explain neural networks.
A neural network is a program made of many small connected units. It learns from examples by changing how strongly the units are connected.

What is a token?/What is a tokenizer?/What does a tokenizer do?
A tokenizer splits text into small pieces called tokens. A language model reads tokens and writes its answer token by token.

What is quantisation?/What is quantization?/What does quantised mean?
Quantisation stores the numbers of a model with fewer bits, for example four instead of sixteen. The model becomes smaller and faster and loses only a little quality.

What is an atom?/What are atoms?
Atoms are the tiny building blocks of everything around us. They are so small that nobody can see them with the naked eye.

What is water made of?/What is the chemical formula of water?/What is H2O?
Water is made of hydrogen and oxygen. Its formula is H2O, which means two hydrogen atoms and one oxygen atom.

What is air made of?/What is in the air?/What is air?
Air is a mix of gases. It is mostly nitrogen, about one fifth of it is oxygen, and there are small amounts of other gases.

At what temperature does water boil?/When does water boil?/What is the boiling point of water?
Water boils at 100 degrees Celsius at sea level.

At what temperature does water freeze?/When does water freeze?/What is the freezing point of water?
Water freezes at 0 degrees Celsius.

What are the three states of matter?/What is a solid, a liquid and a gas?
The three common states of matter are solid, liquid and gas. Ice, water and steam are the same stuff in these three states.

How fast is light?/What is the speed of light?
Light travels at about 300,000 kilometres per second. Nothing is faster.

How fast is sound?/What is the speed of sound?/What is sound?
Sound is a wave that moves through the air. It travels at about 340 metres per second.

What is energy?/Explain energy.
Energy is the ability to do work. It can be movement, heat, light or electricity, and it can change from one form to another.

What is an echo?/Why do we hear an echo?
An echo is sound that bounces off something, such as a wall or a mountain, and comes back to our ears.

What is a shadow?/Why do we have shadows?
A shadow is a dark place where something blocks the light.

What is fire?/Why is fire hot?
Fire is a fast reaction between a fuel and oxygen. It gives off heat and light.

How is bread made?/How do you make bread?/What is bread made of?
Bread is made from flour, water, salt and yeast. You knead the dough, let it rise and bake it in a hot oven.

How is glass made?/What is glass made of?
Glass is made mostly from sand. The sand is melted in a very hot oven and cooled into shape.

How is paper made?/What is paper made of?
Paper is made from wood. The wood is turned into wet pulp, which is pressed flat and dried.

Where does milk come from?/Where do we get milk from?
Most of the milk that we drink comes from cows. Goats and sheep give milk too.

Where does chocolate come from?/What is chocolate made of?
Chocolate is made from the beans of the cacao tree, usually with sugar and often with milk.

Who wrote Romeo and Juliet?/Who is the author of Romeo and Juliet?/Who wrote Hamlet?
It was written by William Shakespeare.

Who painted the Mona Lisa?/Who is the painter of the Mona Lisa?
The Mona Lisa was painted by Leonardo da Vinci.

Who was the first person on the moon?/Who first walked on the moon?
Neil Armstrong was the first person to walk on the moon, in 1969.

Who invented the telephone?/Who made the first telephone?
Alexander Graham Bell is usually named as the inventor of the telephone.

Who invented the light bulb?/Who made the light bulb?
Thomas Edison made the first light bulb that sold well, and other inventors worked on it too.

Who was Albert Einstein?/What did Einstein do?
Albert Einstein was a physicist. He is famous for the theory of relativity.

Who was Isaac Newton?/What did Newton discover?
Isaac Newton was an English scientist. He described gravity and the laws of motion.

Who was Marie Curie?/What did Marie Curie discover?
Marie Curie was a scientist who studied radioactivity. She won two Nobel Prizes.

Who was Ada Lovelace?/Who was the first programmer?
Ada Lovelace was an English mathematician. She is often called the first computer programmer.

Who was Mozart?/Who is Mozart?
Wolfgang Amadeus Mozart was a famous composer from Austria. He wrote his first music as a small child.

What is the largest ocean?/Which ocean is the biggest?/What is the biggest ocean in the world?
The Pacific Ocean is the largest ocean in the world.

What is the highest mountain?/What is the tallest mountain in the world?/Which mountain is the highest?
Mount Everest is the highest mountain in the world. It is about 8,849 metres high.

What is the longest river?/What is the longest river in the world?/Which river is the longest?
The Nile in Africa is usually named as the longest river in the world.

What is the largest country?/What is the biggest country in the world?/Which country is the largest?
Russia is the largest country in the world.

What is the smallest country?/Which country is the smallest?/What is the smallest country in the world?
Vatican City is the smallest country in the world.

What is the largest desert?/What is the biggest hot desert?/What is the largest hot desert in the world?
The Sahara in Africa is the largest hot desert in the world.

What is the largest planet?/Which planet is the biggest?/What is the biggest planet?
Jupiter is the largest planet in our solar system.

What is the smallest planet?/Which planet is the smallest?
Mercury is the smallest planet in our solar system.

Which planet is closest to the sun?/What is the closest planet to the sun?
Mercury is the closest planet to the sun.

Which planet is the hottest?/What is the hottest planet?
Venus is the hottest planet, because its thick air keeps the heat in.

Which planet has rings?/What planet is known for its rings?
Saturn is famous for its bright rings of ice and rock.

Which planet is called the red planet?/What is the red planet?
Mars is called the red planet, because there is rust in its soil.

What is the largest animal?/What is the biggest animal in the world?/Which animal is the biggest?
The blue whale is the largest animal in the world.

What is the largest land animal?/What is the biggest land animal?/Which land animal is the biggest?
The African elephant is the largest land animal.

What is the tallest animal?/Which animal is the tallest?/What is the tallest animal in the world?
The giraffe is the tallest animal in the world.

What is the fastest animal?/What is the fastest land animal?/Which animal runs the fastest?
The cheetah is the fastest land animal. It can run at about 110 kilometres per hour for a short time.

What is the largest bird?/Which bird is the biggest?/What is the biggest bird?
The ostrich is the largest bird in the world.

How many continents are there?/Name the number of continents.
There are seven continents: Africa, Antarctica, Asia, Australia, Europe, North America and South America.

How many oceans are there?/How many oceans are there on Earth?
There are five oceans: the Pacific, the Atlantic, the Indian, the Southern and the Arctic Ocean.

How many planets are there?/How many planets are in the solar system?/Name the planets./List the planets.
There are eight planets: Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.

What are the seasons?/How many seasons are there?/Name the four seasons.
There are four seasons: spring, summer, autumn and winter.

What are the days of the week?/Name the days of the week./List the days of the week.
The days of the week are Monday, Tuesday, Wednesday, Thursday, Friday, Saturday and Sunday.

What are the months of the year?/Name the months./List the months of the year.
The months are January, February, March, April, May, June, July, August, September, October, November and December.

What are the colours of the rainbow?/Which colours are in a rainbow?/What are the colors of the rainbow?
The colours of the rainbow are red, orange, yellow, green, blue, indigo and violet.

What are the primary colours?/Name the three primary colours./What are the primary colors?
The three primary colours in painting are red, yellow and blue.

What colour do you get when you mix blue and yellow?/What do blue and yellow make?
Blue and yellow make green.

What colour do you get when you mix red and yellow?/What do red and yellow make?
Red and yellow make orange.

What colour do you get when you mix red and blue?/What do red and blue make?
Red and blue make purple.

What colour do you get when you mix red and white?/What do red and white make?
Red and white make pink.

What colour do you get when you mix black and white?/What do black and white make?
Black and white make grey.

How many letters are in the alphabet?/How many letters does the English alphabet have?
The English alphabet has 26 letters.

What are the vowels?/Which letters are vowels?/Name the vowels.
The vowels are a, e, i, o and u.

What are the five senses?/Name the five senses./How many senses do we have?
The five senses are sight, hearing, smell, taste and touch.

How many minutes are in an hour?/How many minutes does an hour have?/How long is an hour?
There are 60 minutes in an hour.

How many seconds are in a minute?/How many seconds does a minute have?/How long is a minute?
There are 60 seconds in a minute.

How many hours are in a day?/How many hours does a day have?/How long is a day?
There are 24 hours in a day.

How many days are in a week?/How many days does a week have?/How long is a week?
There are 7 days in a week.

How many months are in a year?/How many months does a year have?
There are 12 months in a year.

How many days are in a year?/How many days does a year have?/How long is a year?
There are 365 days in a year, and 366 in a leap year.

How many weeks are in a year?/How many weeks does a year have?
There are 52 weeks in a year.

What is a leap year?/How often is there a leap year?
A leap year has 366 days, because February has 29 days. It comes about every four years.

How many centimetres are in a metre?/How long is a metre?
There are 100 centimetres in a metre.

How many metres are in a kilometre?/How long is a kilometre?
There are 1,000 metres in a kilometre.

How many grams are in a kilogram?/How heavy is a kilogram?
There are 1,000 grams in a kilogram.

How many sides does a triangle have?/How many corners does a triangle have?/What is a triangle?
A triangle is a shape with three sides and three corners.

How many sides does a square have?/How many corners does a square have?/What is a square?
A square is a shape with four equal sides and four right angles.

How many sides does a hexagon have?/What is a hexagon?
A hexagon has six sides.

What is pi?/What is the value of pi?
Pi is the length around a circle divided by its width. It is about 3.14159.

What is a prime number?/Explain prime numbers./What are prime numbers?
A prime number is a number above 1 that can only be divided by 1 and itself, such as 2, 3, 5, 7 and 11.

What is an even number?/What are even numbers?
An even number can be divided by two with nothing left over, such as 2, 4, 6 and 8.

What is an odd number?/What are odd numbers?
An odd number leaves one left over when you divide it by two, such as 1, 3, 5 and 7.

How many wheels does a car have?/How many wheels are on a car?
A car has four wheels.

How many wheels does a bicycle have?/How many wheels are on a bike?
A bicycle has two wheels.

How many fingers do people have?/How many fingers do I have?/How many fingers are on a hand?
Most people have five fingers on each hand, ten in all.

How many legs does a person have?/How many legs do people have?/How many legs do humans have?
A person has two legs.

How many strings does a guitar have?/How many strings are on a guitar?
Most guitars have six strings.

What is the meaning of life?/What is the point of life?
People have thought about that for a very long time. Many find meaning in love, friendship, learning and helping others.

What is happiness?/How can I be happy?/What makes people happy?
Happiness is a warm and good feeling. Friends, rest, kindness and doing what you like all help.

What is friendship?/What makes a good friend?/How do I make friends?
A good friend listens, helps and tells the truth. You can make friends by being kind and by asking people about themselves.

What is love?/Explain love.
Love is a deep feeling of care for someone. It makes us want them to be happy and safe.

What is music?/Why do people like music?
Music is sound arranged in a pleasing way. It can make us feel happy, calm or sad, and it brings people together.

What is art?/Why do people make art?
Art is something that people make to show an idea or a feeling, such as a painting, a song or a story.

What is Rust?/What is the Rust programming language?
Rust is a programming language for fast and reliable software. It helps programmers to avoid many mistakes with memory.

What is Python?/What is the Python programming language?
Python is a programming language that is easy to read. It is often used for science, websites and small tools.

What is MLX?/Tell me about MLX.
MLX is a library by Apple for machine learning. It does fast calculations on arrays, above all on Macs with Apple chips.

What is Apple?/Who makes the Mac?
Apple is a company from California. It makes computers and phones, such as the Mac and the iPhone.
""")

# noun | definition, used as "A(n) noun is ..."
DEFINITIONS = [tuple(x.strip() for x in line.split("|")) for line in """
river | a long stream of water that flows to the sea or to a lake
lake | a large area of water with land all around it
mountain | a very high piece of land
island | a piece of land with water all around it
desert | a very dry place where few plants grow
forest | a large area with many trees
ocean | a very large area of salt water
cloud | a mass of tiny drops of water that floats in the sky
planet | a large round body that travels around a star
comet | a ball of ice and dust that travels around the sun and often shows a bright tail
galaxy | a huge group of stars held together by gravity
school | a place where children learn
library | a place where people can read and borrow books
hospital | a place where sick people are cared for
museum | a place where interesting old or beautiful things are shown
bakery | a place where bread and cakes are made
farm | a place where food is grown and animals are kept
garden | a place where flowers, fruit or vegetables grow
castle | a large old building with thick walls and towers
bridge | a structure that carries a road or a path over water or a valley
lighthouse | a tall tower with a bright light that guides ships
harbour | a safe place for boats and ships by the shore
market | a place where people buy and sell things
kitchen | a room where food is cooked
teacher | a person who helps others to learn
doctor | a person who helps sick people to get well
farmer | a person who grows food and keeps animals
baker | a person who makes bread and cakes
pilot | a person who flies a plane
sailor | a person who works on a ship
scientist | a person who studies how the world works
astronaut | a person who travels into space
artist | a person who makes art, such as paintings or sculptures
poet | a person who writes poems
gardener | a person who looks after plants
clock | a thing that shows the time
compass | a tool with a needle that points north
map | a drawing that shows where places are
bicycle | a vehicle with two wheels that you move with your legs
train | a row of carriages that moves along rails
boat | a vehicle that travels on water
ship | a large boat that can cross the sea
rocket | a machine that can fly into space
robot | a machine that can do some jobs by itself
telephone | a machine that lets people talk over long distances
camera | a machine that takes pictures
lamp | a thing that gives light
mirror | a piece of glass that shows your reflection
umbrella | a thing that keeps you dry in the rain
key | a small piece of metal that opens a lock
candle | a stick of wax that burns and gives light
book | a set of pages with words or pictures
letter | a written message, or one of the signs of the alphabet
poem | a short piece of writing with rhythm and feeling, and often with rhymes
story | a telling of things that happened, real or made up
haiku | a short poem from Japan with three lines of five, seven and five syllables
song | music with words
piano | a large instrument with black and white keys
violin | an instrument with four strings that is played with a bow
guitar | an instrument with strings that you play with your fingers
drum | a round instrument that you hit to make a beat
recipe | a list of steps for cooking a dish
sandwich | two slices of bread with something tasty between them
fruit | the part of a plant that holds the seeds and is often sweet to eat
vegetable | a plant that we eat, such as a carrot or a cabbage
seed | a small thing from which a new plant can grow
flower | the colourful part of a plant that makes seeds
tree | a tall plant with a trunk, branches and leaves
mammal | an animal that feeds its young with milk
reptile | an animal with dry, scaly skin, such as a snake or a lizard
insect | a small animal with six legs
bird | an animal with feathers, wings and a beak
dinosaur | an animal that lived on Earth millions of years ago
dragon | a big animal in stories that can often fly and breathe fire
unicorn | an animal in stories that looks like a horse with one horn
wizard | a person in stories who can do magic
king | a man who rules a country
queen | a woman who rules a country, or the wife of a king
holiday | a day or a time when people rest from work or school
birthday | the day on which a person was born, remembered every year
friend | a person whom you like and trust
family | a group of people who belong together, such as parents and children
dream | a story that our mind makes while we sleep
secret | something that is told to nobody or to very few people
promise | words that say that you will surely do something
question | words that ask for an answer
dictionary | a book that explains words
calendar | a list of the days, weeks and months of a year
thermometer | a tool that measures how warm something is
microscope | a tool that makes very small things look big
battery | a thing that stores electricity
""".strip().splitlines()]

HOWTO = blocks("""
How do I make tea?/How do you make a cup of tea?/How to make tea/Give me steps for making tea.
1. Boil some fresh water.
2. Put a tea bag into a cup.
3. Pour the hot water over it.
4. Wait for three minutes and take out the tea bag.
5. Add milk or sugar if you like.

How do I boil an egg?/How do you boil an egg?/How to boil an egg/How long should I boil an egg?
1. Bring water to the boil in a pan.
2. Put the egg in carefully with a spoon.
3. Wait six minutes for a soft egg or ten minutes for a hard one.
4. Cool the egg in cold water and peel it.

How do I make a sandwich?/How do you make a sandwich?/How to make a sandwich/Give me a simple sandwich recipe.
1. Take two slices of bread.
2. Spread some butter on them.
3. Add cheese, tomato and salad.
4. Put the slices together and cut the sandwich in half.

How do I make pancakes?/Give me a recipe for pancakes./How to make pancakes/Can you give me a pancake recipe?
1. Mix a cup of flour, a cup of milk, an egg and a little salt.
2. Heat some butter in a pan.
3. Pour in a little of the mix and wait until the top is dry.
4. Turn the pancake over and bake the other side.
5. Serve it with sugar, fruit or syrup.

How do I make a cake?/Give me a simple cake recipe./How to bake a cake/How do you bake a cake?
1. Mix butter, sugar and eggs.
2. Stir in flour and a little baking powder.
3. Pour the mix into a tin.
4. Bake it in a warm oven for about forty minutes.
5. Let it cool before you eat it.

How do I make soup?/Give me a recipe for vegetable soup./How to make soup/How do you make soup?
1. Cut carrots, potatoes and an onion into small pieces.
2. Fry the onion in a little oil.
3. Add the vegetables and cover them with water.
4. Cook everything for twenty minutes.
5. Add salt and pepper and serve it hot.

How do I make lemonade?/Give me a lemonade recipe./How to make lemonade
1. Press the juice out of four lemons.
2. Stir in some sugar.
3. Add a litre of cold water.
4. Serve it with ice.

How do I plant a tree?/How do you plant a tree?/How to plant a tree
1. Dig a hole that is wider than the roots.
2. Set the tree straight into the hole.
3. Fill the hole with soil and press it down gently.
4. Give the tree plenty of water.

How do I plant a seed?/How do I grow a flower?/How to grow flowers/How do you grow plants?
1. Fill a pot with soil.
2. Press the seed a little way into the soil.
3. Water it gently and put the pot in a sunny place.
4. Keep the soil moist and wait for the first leaves.

How do I wash my hands?/How should I wash my hands?/How to wash hands
1. Make your hands wet with clean water.
2. Rub them with soap for twenty seconds.
3. Rinse off the soap.
4. Dry your hands with a clean towel.

How do I brush my teeth?/How to brush teeth/How should I brush my teeth?
1. Put a little toothpaste on your brush.
2. Brush all your teeth gently for two minutes.
3. Spit out the toothpaste.
4. Rinse your brush with water.

How do I tie my shoes?/How to tie shoelaces/How do you tie shoelaces?
1. Cross the two laces and pull one under the other.
2. Make a loop with one lace.
3. Wrap the other lace around the loop.
4. Push it through the hole and pull both loops tight.

How do I learn a language?/How can I learn English?/How to learn a new language/What is the best way to learn a language?
1. Practise a little every day.
2. Learn the most common words first.
3. Listen to songs and stories in the language.
4. Speak with other people, and do not be afraid of mistakes.

How can I learn to program?/How do I learn to code?/How to learn programming/How do I start programming?
1. Choose one language, such as Python.
2. Write very small programs first.
3. Change them and see what happens.
4. Build something that you enjoy, and practise often.

How can I sleep better?/I cannot sleep. What can I do?/How do I fall asleep?/Any tips for sleeping well?
1. Go to bed at the same time every day.
2. Keep your room dark, quiet and cool.
3. Put your phone away an hour before bed.
4. Read something calm.

How can I stay healthy?/How do I stay healthy?/Give me tips for a healthy life./What should I do to be healthy?
1. Eat fruit and vegetables every day.
2. Drink enough water.
3. Move your body and go outside.
4. Sleep well and spend time with friends.

How can I save energy?/How do I save energy at home?/How to save electricity
1. Switch off lights that you do not need.
2. Turn down the heating a little.
3. Wash clothes with cold water.
4. Unplug machines that are not in use.

How can I help the environment?/How do I protect nature?/What can I do for the planet?
1. Walk or ride a bicycle for short trips.
2. Waste less food and water.
3. Use things for longer and recycle them.
4. Plant trees and flowers.

How do I study well?/How can I study for a test?/Give me tips for studying./How do I prepare for an exam?
1. Start early and make a plan.
2. Study in short blocks with small breaks.
3. Explain the subject in your own words.
4. Test yourself and sleep well before the exam.

How do I write a letter?/How to write a letter
1. Write the date at the top.
2. Greet the person by name.
3. Say what you want to say in short paragraphs.
4. End with a kind greeting and your name.

How do I take care of a dog?/How to look after a dog/What does a dog need?
1. Give it good food and fresh water every day.
2. Take it for walks.
3. Play with it and train it kindly.
4. Visit the vet once a year.

How do I take care of a cat?/How to look after a cat/What does a cat need?
1. Give it good food and fresh water every day.
2. Keep its litter box clean.
3. Play with it and let it rest.
4. Visit the vet once a year.

How do I build a snowman?/How to make a snowman
1. Roll a big ball of snow for the body.
2. Roll a smaller ball for the middle and one for the head.
3. Put the balls on top of each other.
4. Add stones for the eyes and a carrot for the nose.
""")

FEELINGS = blocks("""
I am sad./I feel sad./I'm sad today./I feel down./I am unhappy.
I am sorry that you feel sad. It may help to talk to a friend, take a walk or rest a little. Would you like to hear a short story?

I am happy./I'm happy today./I feel great./I am in a good mood.
That is wonderful! I am glad to hear it. What made your day so good?

I am tired./I'm so tired./I feel tired today.
You may need some rest. Drink a glass of water, take a short break and go to bed early tonight.

I am bored./I'm bored./What should I do? I am bored./Give me something to do.
You could read a book, draw a picture, go for a walk or call a friend. I can also tell you a story or a joke.

I am hungry./I'm hungry./I am so hungry. What should I eat?
You could make a sandwich, some soup or a bowl of fruit. What do you like best?

I am angry./I'm angry./I feel angry.
I am sorry to hear that. Take a few slow breaths and count to ten. Then it is often easier to talk about it.

I am scared./I am afraid./I'm afraid of the dark.
It is all right to be afraid sometimes. Take a slow breath, turn on a small light and talk to someone you trust.

I am lonely./I feel lonely./I feel alone.
I am sorry that you feel lonely. Perhaps you can call a friend or someone in your family. I am happy to talk with you too.

I am nervous./I have a test tomorrow./I'm nervous about tomorrow./I have an exam tomorrow.
That is normal. Prepare a little, sleep well and take slow breaths. I wish you good luck!

I am sick./I feel sick./I have a cold.
I am sorry to hear that. Rest, drink something warm and ask a doctor if it does not get better soon.

It is my birthday today./Today is my birthday!/It's my birthday.
Happy birthday! I hope that you have a wonderful day with cake and good friends.

I made a mistake./I failed my test./I did something wrong.
Everybody makes mistakes, and we can learn from them. Be kind to yourself and try again.

I love you./I like you./You are great./You are nice.
Thank you, that is very kind! I am only a small model, but I like to help.

You are stupid./You are dumb./You are bad./I hate you.
I am sorry that I was not helpful. I am only a small model and I make mistakes. Shall we try again?

That is wrong./You are wrong./That's not right./This is not correct.
I am sorry about that. I am a small model and I make mistakes. Please check important answers.

What should I cook today?/What should I eat for dinner?/What's for dinner?/Give me an idea for lunch.
How about a vegetable soup with fresh bread, or pasta with tomatoes and cheese?

What should I read?/Can you suggest a book?/Give me an idea for a book.
Perhaps a book of fairy tales, a story about the sea or a good mystery. What do you enjoy?

What should I do this weekend?/Any ideas for the weekend?/Give me an idea for the weekend.
You could visit a park, bake a cake, read a good book or meet a friend.

Give me some advice./Do you have any advice for me?/Can you give me advice?
Take one small step at a time, be kind to others, and do not forget to rest.

Say something nice./Give me a compliment./Tell me something nice./Cheer me up.
You ask good questions, and the world is a little brighter because you are in it.

Motivate me./Encourage me./I want to give up.
Do not give up! Every big journey is made of small steps, and you have already begun.
""")

JOKES = [tuple(x.strip() for x in line.split("|")) for line in """
Why did the bicycle fall over? | Because it was two-tired!
What do you call a bear with no teeth? | A gummy bear!
Why did the tomato turn red? | Because it saw the salad dressing!
What do you call cheese that is not yours? | Nacho cheese!
What did the ocean say to the beach? | Nothing, it just waved!
Why did the chicken cross the road? | To get to the other side!
What do you call a sleeping dinosaur? | A dino-snore!
Why are fish so clever? | Because they live in schools!
What has ears but cannot hear? | A field of corn!
Why did the banana go to the doctor? | Because it was not peeling well!
How do bees get to school? | On the school buzz!
What kind of tree fits in your hand? | A palm tree!
Why do cows wear bells? | Because their horns do not work!
Why was the maths book sad? | Because it had too many problems!
What did one wall say to the other wall? | I will meet you at the corner!
What do you call a snowman in summer? | A puddle!
Why did the computer go to the doctor? | Because it had a virus!
Why was the computer cold? | Because it left its Windows open!
What do you get when you cross a snowman and a dog? | Frostbite!
""".strip().splitlines()]

RIDDLES = [tuple(x.strip() for x in line.split("|")) for line in """
What has hands but cannot clap? | A clock.
What has a neck but no head? | A bottle.
What gets wetter the more it dries? | A towel.
What has keys but cannot open a door? | A piano.
What goes up but never comes down? | Your age.
What has teeth but cannot bite? | A comb.
What can you catch but not throw? | A cold.
What has one eye but cannot see? | A needle.
What is full of holes but still holds water? | A sponge.
What has legs but cannot walk? | A table.
""".strip().splitlines()]

FUN_FACTS = [line.strip() for line in """
An octopus has three hearts.
Honey can stay good for thousands of years.
A group of lions is called a pride.
Bananas are berries, but strawberries are not.
The blue whale is the largest animal that has ever lived.
Sea otters hold hands while they sleep.
Butterflies taste with their feet.
A day on Venus is longer than a year on Venus.
The heart of a shrimp is in its head.
Penguins cannot fly, but they are very good swimmers.
Light from the sun takes about eight minutes to reach us.
Snails can sleep for a very long time when the weather is dry.
Cows have best friends and like to stay near them.
Bees can see colours that people cannot see.
The Eiffel Tower grows a little taller in the summer heat.
Elephants can recognise themselves in a mirror.
A bolt of lightning is hotter than the surface of the sun.
""".strip().splitlines()]

# what | language | code
CODE = [
    ("prints hello world", "Python", 'print("Hello, world!")'),
    ("prints hello world", "Rust", 'fn main() {\n    println!("Hello, world!");\n}'),
    ("prints hello world", "C", '#include <stdio.h>\n\nint main(void) {\n    printf("Hello, world!\\n");\n    return 0;\n}'),
    ("prints hello world", "JavaScript", 'console.log("Hello, world!");'),
    ("prints hello world", "Swift", 'print("Hello, world!")'),
    ("adds two numbers", "Python", "def add(a, b):\n    return a + b"),
    ("adds two numbers", "Rust", "fn add(a: i32, b: i32) -> i32 {\n    a + b\n}"),
    ("adds two numbers", "C", "int add(int a, int b) {\n    return a + b;\n}"),
    ("adds two numbers", "JavaScript", "function add(a, b) {\n  return a + b;\n}"),
    ("multiplies two numbers", "Python", "def multiply(a, b):\n    return a * b"),
    ("multiplies two numbers", "Rust", "fn multiply(a: i32, b: i32) -> i32 {\n    a * b\n}"),
    ("counts from 1 to 10", "Python", "for i in range(1, 11):\n    print(i)"),
    ("counts from 1 to 10", "Rust", 'fn main() {\n    for i in 1..=10 {\n        println!("{i}");\n    }\n}'),
    ("checks if a number is even", "Python", "def is_even(n):\n    return n % 2 == 0"),
    ("checks if a number is even", "Rust", "fn is_even(n: i32) -> bool {\n    n % 2 == 0\n}"),
    ("reverses a string", "Python", "def reverse(text):\n    return text[::-1]"),
    ("reverses a string", "Rust", "fn reverse(text: &str) -> String {\n    text.chars().rev().collect()\n}"),
    ("finds the largest number in a list", "Python", "def largest(numbers):\n    return max(numbers)"),
    ("sums a list of numbers", "Python", "def total(numbers):\n    return sum(numbers)"),
    ("sums a list of numbers", "Rust", "fn total(numbers: &[i32]) -> i32 {\n    numbers.iter().sum()\n}"),
    ("computes the factorial of a number", "Python", "def factorial(n):\n    return 1 if n < 2 else n * factorial(n - 1)"),
    ("computes Fibonacci numbers", "Python", "def fib(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n    return a"),
    ("greets a person by name", "Python", 'def greet(name):\n    print(f"Hello, {name}!")'),
    ("greets a person by name", "Rust", 'fn greet(name: &str) {\n    println!("Hello, {name}!");\n}'),
]
