"""What the bundled model learns to see: everyday concepts.

Each concept has a name that the model says, the names that icon sets give to it, and sometimes
other words that mean the same. `EVERYDAY` are the 100 on which naming is measured.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CONCEPTS", "EVERYDAY", "Concept", "concept_named", "with_article"]


@dataclass(frozen=True)
class Concept:
    """One kind of thing.

    Attributes:
        name: the word that the model answers with ("cat").
        icons: names of this thing in icon sets (Unicode CLDR names and common icon names).
        also: other words that an answer may use for it ("doughnut" and "donut").
        everyday: whether it belongs to the 100 concepts of the naming measurement.
    """

    name: str
    icons: frozenset[str]
    also: tuple[str, ...]
    everyday: bool

    @property
    def phrase(self) -> str:
        """The name with its article: "a cat", "an apple", "grapes"."""
        if self.name in _PLURAL or self.name in _MASS:
            return self.name
        return with_article(self.name)


def with_article(words: str) -> str:
    """The words with "a" or "an" before them."""
    vowel = words[0] in "aeiou" and not words.startswith("uni")
    return f"{'an' if vowel else 'a'} {words}"


_PLURAL = frozenset({"grapes", "cherries", "french fries", "jeans", "glasses", "headphones",
                     "scissors", "dice"})  # fmt: skip
_MASS = frozenset({"bread", "cheese", "popcorn", "sushi", "honey", "milk", "coffee", "tea", "wine",
                   "beer", "corn", "broccoli", "fire", "soap", "chocolate"})  # fmt: skip

# name [(other words)] [: icon names beyond the name itself]; a star marks the everyday 100.
_TABLE = """
*cat (kitten): cat-face
*dog (puppy): dog-face
*mouse (rat): mouse-face, rat
*rabbit (bunny): rabbit-face
*fox: fox-face
*bear: bear-face
*panda: panda-face
koala: koala-face
*tiger: tiger-face
*lion: lion-face
*cow (ox): cow-face, ox
*pig: pig-face
*frog: frog-face
*monkey: monkey-face
*chicken (hen, rooster): rooster
*penguin
*bird
*duck
eagle
owl
bat
wolf: wolf-face
*horse: horse-face
unicorn: unicorn-face
*bee (honeybee): honeybee
*butterfly
snail
ladybug (lady beetle, ladybird): lady-beetle, ladybird
spider
*turtle (tortoise)
*snake
octopus
crab
*fish: tropical-fish
dolphin
whale: spouting-whale
shark
crocodile
*elephant
camel: two-hump-camel
giraffe
*sheep: ewe
goat
deer
hedgehog
zebra
dinosaur (sauropod, t-rex): sauropod, t-rex
*cactus
christmas tree
*tree: deciduous-tree, tree-1, evergreen-tree, evergreentree, deciduoustree
palm tree (palm): palm-tree, palm, palmtree
*rose
sunflower
tulip
*mushroom
leaf (maple leaf): maple-leaf, leaf-fluttering-in-wind, mapleleaf
clover (four leaf clover, shamrock): four-leaf-clover, shamrock, fourleafclover
*apple: red-apple, green-apple, apple-whole, food-apple, redapple, greenapple, apple-one
*banana
*grapes: grape, food-grains-grapes
*watermelon: food-watermelon
*orange (tangerine): tangerine
*lemon
*pineapple
pear
peach
*cherries (cherry): cherry, food-cherry, fruit-cherries
*strawberry
kiwi: kiwi-fruit
*tomato
avocado
eggplant (aubergine)
*carrot: food-carrot
corn: ear-of-corn
broccoli
*bread (loaf): bread-slice, loaf-of-bread
*cheese: cheese-wedge, cheese-slice
*egg: eggs
*hamburger (burger): burger, food-hamburger
*french fries (fries): fries, food-fries
*pizza: slice-of-pizza, pizza-slice, food-pizza
hot dog (hotdog): hotdog, food-hot-dog
taco
popcorn
sushi: food-sushi
*ice cream: soft-ice-cream, icecream, ice-cream-cone, softicecream, ice-cream-2, ice-cream-1
*doughnut (donut): donut
*cookie
*cake (birthday cake): birthday-cake, shortcake, cake-slice, birthdaycake, food-cake, cake-1
chocolate (chocolate bar): chocolate-bar, chocolatebar
candy (sweet)
honey (honey pot): honey-pot, honeypot
milk (glass of milk): glass-of-milk
*coffee (hot beverage, cup): hot-beverage, mug-hot, drink-coffee, coffee-cup
tea (teacup): teacup-without-handle, teapot
wine (wine glass): wine-glass, drink-wine, wineglass, wine-glass-alt
*beer (beer mug): beer-mug, clinking-beer-mugs, beer-stein, drink-beer, beermug
*car: automobile, oncoming-automobile, vehicle-car, car-side, car-1, redcar
taxi (cab): oncoming-taxi, vehicle-cab, local-taxi, directions-car-taxi
*bus: oncoming-bus, vehicle-bus, bus-side, directions-bus
*truck (lorry): delivery-truck, vehicle-truck, articulated-lorry, local-shipping
ambulance
tractor: vehicle-tractor
*bicycle (bike): bike, vehicle-bicycle, pedal-bike
motorcycle (motorbike): motorbike, motor-scooter
*train (locomotive): locomotive, vehicle-subway, steam-locomotive, steamlocomotive
*airplane (plane): plane, small-airplane, airplane-mode, airplanemode, flight
helicopter
*rocket: rocket-launch
*boat (sailboat): sailboat, sailing, sail-boat, boat-sail
ship (ferry, cruise ship): passenger-ship, vehicle-ship, directions-boat, ferry
anchor
*clock: mantelpiece-clock, twelve-oclock, three-oclock, nine-oclock, alarm-clock, alarm, alarmclock, clock-circle, clock-time-four, clock-three
watch (wristwatch): wrist-watch, smartwatch
*phone (mobile phone, smartphone, telephone): mobile-phone, telephone, smartphone, mobile, cellphone, device-mobile, telephone-receiver, mobilephone
*laptop (computer): laptop-computer, laptop-mac
keyboard
printer
*camera: camera-with-flash, photo-camera
*television (tv): tv, television-simple, television-classic
radio
*light bulb (lightbulb, bulb): lightbulb, bulb, lightbulb-on, electric-light-bulb, lightbulb-filament, lamp-bulb, bulb-1
candle
*book: open-book, closed-book, blue-book, green-book, orange-book, openbook, closedbook, book-open
newspaper
*envelope (letter, mail): mail, letter, e-mail, email
*package (box, parcel): box, package-variant-closed
*pencil: edit-pencil
*scissors: scissor, cut
*lock (padlock): locked, lock-closed, padlock, lock-1, locked-with-key
*key: old-key, key-1, vpn-key
*hammer: hammer-tool
wrench (spanner): spanner
*gear (cog): cog, settings-gear
magnet
*umbrella: umbrella-with-rain-drops, closed-umbrella, beach-access, umbrella-1
*balloon: party-balloon, balloons
*gift (present): wrapped-gift, gift-box, wrappedpresent, card-giftcard, giftbox
trophy: trophy-cup, emoji-events
medal: sports-medal, 1st-place-medal, military-medal
*crown
top hat (hat): tophat, hat-fedora, hat
*shirt (t-shirt): t-shirt, tshirt, tshirt-crew, shirt-short-sleeve, clothes-t-shirt, tshirt-v
jeans (trousers, pants): trousers, pants
dress: one-piece-swimsuit-dress, clothes-dress
*shoe (sneaker): running-shoe, shoe-sneaker, sneaker, sneakers, athleticshoe, mans-shoe, shoe-1
*glasses (eyeglasses, sunglasses): sunglasses, eyeglasses, eye-glasses, sunglasses-1
*backpack (school bag, schoolbag): school-backpack, bag-backpack, satchel
handbag (purse): purse, clutch-bag
ring: diamond-ring, ring-diamond
diamond (gem): gem-stone, gem, diamond-stone, gemstone
*bed: bed-double
couch (sofa): couch-and-lamp, sofa, couchandlamp
*chair: chair-alt
toilet
bathtub (bath): bath
*door: door-closed
bell: notification-bell, notifications
*guitar: guitar-acoustic, guitar-electric
piano: musical-keyboard, musicalkeyboard
violin
trumpet
drum
microphone (mic): mic, studio-microphone, microphone-stage, microphone-1
*headphones (headphone): headphone, headset
*soccer ball (football): soccer, football-soccer, sports-soccer, soccerball, sport-soccer, futbol
*basketball: sport-basketball, sports-basketball, basketball-ball, basketball-1
tennis ball (tennis): tennis, tennis-ball, sports-tennis, baseball-tennis
dice (die): game-die, die, dice-five, dice-6, gamedie
puzzle piece (puzzle, jigsaw): puzzle, puzzle-piece, extension, jigsaw
teddy bear (teddy): teddy-bear, teddybear
kite
bomb
telescope
microscope
syringe
pill
thermometer
battery: battery-full
plug: electric-plug, electrical-plug, power-plug, plugs
globe (earth, world): globe-showing-americas, globe-showing-europe-africa, earth, world, globe-with-meridians, globe-showing-asia-australia, earth-americas, public
map: world-map, map-trifold
*moon: crescent-moon, full-moon, moon-stars, crescentmoon, fullmoon
*sun: sun-with-face, sunny, weather-sunny, sunwithface, sun-1
*star: glowing-star, star-1, glowingstar
*cloud: cloudy
rainbow
snowflake
snowman: snowman-without-snow, snowmanwithoutsnow
*fire (flame): flame, local-fire-department, fireplace-fire
water drop (droplet, drop): droplet, water, water-drop, drop
lightning (bolt, high voltage): high-voltage, bolt, flash, highvoltagesign
volcano
*mountain: snow-capped-mountain, mountains, landscape-mountain
*house (home): house-with-garden, home, house-simple, housebuilding, home-1
castle: european-castle, fort
tent (camping): camping, tent-1
*heart (love heart): red-heart, heart-suit, favorite, blackheartsuit, like
*robot (robot face): robot-face, smart-toy
ghost
skull
alien (monster): alien-monster, alienmonster, space-invader
money bag (bag of money): money-bag, moneybag, money-bags
credit card (card): credit-card, creditcard
*shopping cart (cart, trolley): shopping-cart, cart, cart-shopping
trash can (bin, wastebasket): wastebasket, trash, trash-can, delete-bin, bin, garbage
broom
toothbrush
soap
hourglass: hourglass-done, hourglass-not-done, hourglass-flowing
compass: compass-1
eye
ear
brain
tooth
bone
"""  # noqa: E501


def _parse(line: str) -> Concept:
    head, _, icons = line.partition(":")
    everyday = head.startswith("*")
    name, _, also = head.lstrip("*").partition("(")
    name = name.strip()
    words = tuple(w.strip() for w in also.rstrip(") ").split(",") if w.strip())
    slugs = {i.strip() for i in icons.split(",") if i.strip()} | {name.replace(" ", "-")}
    return Concept(name, frozenset(slugs), words, everyday)


CONCEPTS: tuple[Concept, ...] = tuple(_parse(line) for line in _TABLE.strip().splitlines())
EVERYDAY: tuple[Concept, ...] = tuple(c for c in CONCEPTS if c.everyday)

_BY_NAME = {c.name: c for c in CONCEPTS}


def concept_named(name: str) -> Concept:
    """The concept of that name.

    Raises:
        KeyError: no concept has that name.
    """
    return _BY_NAME[name]
