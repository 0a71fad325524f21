"""Everyday words: what pictures and clusters of them are named by where nobody gives words."""

from __future__ import annotations

_WORDS = """
person, woman, man, child, baby, face, hand, crowd, portrait, cat, dog, horse, cow, pig, sheep, goat, rabbit, mouse,
squirrel, fox, wolf, bear, lion, tiger, elephant, giraffe, zebra, camel, deer, monkey, kangaroo, whale, dolphin, seal,
bird, owl, duck, chicken, penguin, eagle, parrot, flamingo, peacock, swan, fish, shark, octopus, crab, snail,
starfish, jellyfish, coral, frog, turtle, lizard, snake, crocodile, dinosaur, butterfly, bee, spider, beetle, insect,
tree, palm tree, flower, rose, tulip, sunflower, cactus, grass, leaf, mushroom, moss, fruit, apple, banana, orange,
lemon, pear, grapes, strawberry, cherry, tomato, carrot, corn, vegetables, bread, cheese, cake, pizza, hamburger, egg,
ice cream, meat, soup, salad, coffee, tea, wine, beer, a meal, car, truck, bus, train, bicycle, motorcycle, airplane,
helicopter, boat, ship, rocket, tractor, road sign, house, castle, church, tower, bridge, skyscraper, city, street,
road, tunnel, stairs, door, window, wall, roof, ruins, garden, park, farm, factory, shop, restaurant, kitchen,
bedroom, bathroom, office, classroom, library, stadium, bar, mountain, hill, valley, forest, field, meadow, desert,
beach, sea, lake, river, waterfall, island, cliff, cave, rock, volcano, glacier, snow, ice, sky, cloud, storm,
lightning, rainbow, fog, sunset, night, moon, sun, stars, galaxy, planet, fire, smoke, fireworks, water drop, wave,
texture, pattern, brick wall, wood, metal, fabric, paper, gravel, sand, book, newspaper, letter, text, handwriting,
map, chart, diagram, drawing, painting, cartoon, logo, screenshot, flag, clock, lamp, chair, table, bed, sofa, mirror,
key, lock, bottle, cup, glass, plate, bowl, knife, fork, spoon, pot, hammer, screwdriver, pliers, saw, scissors,
needle, pencil, brush, computer, keyboard, telephone, camera, television, guitar, piano, violin, drum, ball, balloon,
toy, doll, game, hat, shoe, shirt, dress, jacket, bag, umbrella, glasses, jewelry, coin, money, box, basket, envelope,
folder, star, heart, arrow, circle, a number, a letter of the alphabet, wedding, birthday, concert, sport, football,
swimming, skiing, hiking, dance, x-ray, microscope, brain, skull, cell
"""
EVERYDAY: tuple[str, ...] = tuple(" ".join(word.split()) for word in _WORDS.split(","))
"""Plain names of what people photograph and draw."""
