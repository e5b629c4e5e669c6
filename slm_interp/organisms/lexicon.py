"""The words of the world, by what can stand in for what, frequent words first.

A category is a gap of a phrasing (`slm_interp.organisms.grammar`). The first `FACT_VALUES` words of a fact category are the
values of facts; the others are said in plain sentences only. Homophones lie in different categories, so that their
contexts tell them apart.
"""

from __future__ import annotations

FACT_VALUES = 16


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


NAMES = _words("""
anna ben carla david emma felix grace henry ivy jack karen leo maria nathan olivia peter quentin rosa simon tina oscar victor wendy
arthur bella daniel fiona hugo isabel kevin laura martin nina patrick susan thomas alice boris clara dennis edward frank gloria hannah
ingrid james linda monica norman pamela ralph sarah teresa ursula vincent walter yvonne zoe adam brenda caroline douglas elena gregory
""")

CATEGORIES: dict[str, tuple[str, ...]] = {
    "city": _words("""
        boston chicago denver dublin geneva hamburg lisbon london milan montreal naples oslo prague sydney toronto venice
        bristol calgary dallas dresden florence glasgow houston istanbul liverpool manchester melbourne memphis munich nashville
        phoenix plymouth seattle stuttgart valencia zurich
    """),
    "food": _words("""
        apples bananas carrots cheese chicken chocolate fish noodles onions pancakes potatoes rice salad soup tomatoes bread
        flour meat butter sugar honey pear berry cereal tea coffee milk cake garlic pepper mousse sole maize thyme leek beet
        yolk biscuit cabbage cucumber lemon melon mushroom mustard orange pasta peach plum pudding sausage spinach strawberry turnip
        vinegar walnut yogurt
    """),
    "job": _words("""
        baker builder doctor driver farmer gardener lawyer painter pilot sailor singer soldier tailor teacher waiter writer
        knight maid witch nurse judge captain butcher carpenter dentist detective engineer fisherman hunter journalist librarian mechanic
        merchant miner minister plumber policeman priest professor scientist secretary servant shepherd student thief
    """),
    "animal": _words("""
        camel cat dog donkey goat hamster lizard monkey parrot pig rabbit sheep spider tiger turtle cow
        horse bear deer hare moose flea mussel bird fox wolf lion mouse frog duck goose snake eagle owl whale dolphin elephant kangaroo
        leopard octopus penguin pigeon raven salmon seal shark snail squirrel swan zebra beetle buffalo crocodile gorilla hedgehog
    """),
    "instrument": _words("""
        banjo cello drum flute guitar harp organ piano trumpet violin accordion bagpipe clarinet saxophone trombone ukulele
    """),
    "person": _words("""
        man woman girl boy king queen child friend neighbour brother sister mother father uncle son guest aunt baby cousin daughter
        enemy grandmother husband lady nephew niece orphan partner pirate prince stranger twin visitor widow wife
    """),
    "trait": _words("""
        old young happy angry quiet clever lazy brave hungry tired dear weak pale bored hoarse male famous gentle strange proud rude
        shy silly busy careful cheerful curious friendly greedy honest jealous lonely lucky nervous noisy patient polite poor rich sad
        sleepy stubborn wicked wise
    """),
    "quality": _words("""
        small big new heavy broken bare plain sweet cheap tidy dirty empty expensive fragile golden huge light narrow perfect
        round rusty sharp shiny simple soft square thick tiny ugly useful wet wooden
    """),
    "colour": _words("red blue green yellow white black brown purple grey pink crimson turquoise"),
    "place": _words("""
        garden forest kitchen river market school station mountain valley village castle bridge island harbour sea road beach cell hole
        quay peak stair suite vale maze church city desert factory field hospital hotel library museum office palace park
        prison restaurant shop stable street temple theatre tower tunnel university
    """),
    "thing": _words("""
        book letter basket window table lamp hammer bottle mirror blanket ticket bicycle candle umbrella camera pencil key board mail
        sail tale knot pail throne weight brake bag ball bell box brush bucket button carpet chair clock coin computer cup curtain diamond
        dish door engine envelope feather flag fork hook jar kettle knife ladder map medal needle newspaper package paper picture pillow
        pipe plate pocket purse radio ribbon ring rope shovel soap spoon statue suitcase telephone tool towel toy treasure wallet wheel whistle
    """),
    "clothes": _words("shirt coat hat dress jacket veil belt boot glove scarf skirt sock shoe sweater trousers uniform necklace pyjamas"),
    "plant": _words("flower rose beech fir tree grass oak tulip lily ivory willow bamboo cactus daisy orchid poppy violet"),
    "vehicle": _words("car boat plane train bus truck wagon ship tractor ferry helicopter rocket taxi tram"),
    "body": _words("hair nose tail toe heel waist mane muscle hand head leg shoulder tooth ear elbow finger knee stomach tongue thumb"),
    "material": _words("wood steel fur gold silver glass stone leather clay plastic rubber silk wool copper"),
    "sky": _words("sun moon star wind rain snow cloud mist tide thunder lightning rainbow"),
    "goes": _words("walks runs jumps swims climbs travels crawls dances gallops hurries marches rushes wanders"),
    "handles": _words(
        "carries finds hides sells paints breaks cleans borrows buys drops fixes holds keeps lifts loses opens throws touches washes"
    ),
    "senses": _words(
        "sees hears follows remembers forgets watches knows admires avoids calls chases fears hates helps loves misses needs trusts"
    ),
    "do_thing": _words(
        "see buy sell steal break bury write find hide paint carry fix lift hold clean borrow collect deliver destroy measure repair"
    ),
    "do_person": _words("meet heal hear know beat tow help visit teach call marry warn thank punish surprise"),
    "do_food": _words("waste cook eat taste bake share fry boil chop swallow"),
    "do_alone": _words("wait pause pray flee stare peek rest sleep laugh sing swim smile shout whisper argue complain hesitate"),
    "did_thing": _words("made sent won missed tied guessed found lost bought sold took kept dropped stole threw noticed"),
    "did_food": _words("ate cooked tasted baked shared served burned"),
    "did_ride": _words("rode drove pulled pushed parked painted crashed"),
    "month": _words("january february march april may june july august september october november december"),
    "day": _words("monday tuesday wednesday thursday friday saturday sunday"),
    "season": _words("winter summer autumn spring"),
    "hour": _words("night morning evening midnight noon dinner breakfast lunch"),
    "number": _words("two three four five six seven eight nine ten eleven twelve twenty thirty fifty hundred thousand"),
    "near": _words("near behind beside under by above across against around"),
    "how": _words("slowly quickly quietly never always often suddenly carefully again badly gladly perhaps sometimes together"),
    "weather": _words("rainy sunny windy cloudy foggy frozen stormy warm cold dry humid"),
    "asking": _words("which where whether"),
}

CAPITALS = dict(
    pair.split("-")
    for pair in _words("""
        france-paris spain-madrid japan-tokyo egypt-cairo russia-moscow italy-rome germany-berlin greece-athens austria-vienna
        poland-warsaw cuba-havana kenya-nairobi peru-lima canada-ottawa china-beijing turkey-ankara sweden-stockholm hungary-budapest
        belgium-brussels denmark-copenhagen finland-helsinki portugal-lisboa iran-tehran iraq-baghdad
    """)
)

FACT_CATEGORIES = ("city", "food", "job", "animal", "instrument")

HOMOPHONES: tuple[tuple[str, str], ...] = tuple(
    (pair.split("/")[0], pair.split("/")[1])
    for pair in _words("""
        see/sea son/sun flour/flower bear/bare deer/dear hare/hair knight/night mail/male meat/meet pear/pair plane/plain road/rode
        sail/sale tail/tale week/weak wood/would eight/ate buy/by hear/here hole/whole know/no beach/beech
        board/bored berry/bury cell/sell cent/sent flea/flee horse/hoarse key/quay knot/not mane/main maid/made moose/mousse
        pail/pale piece/peace peak/peek rose/rows sole/soul steel/steal stair/stare throne/thrown toe/tow waist/waste
        wait/weight weather/whether witch/which brake/break fir/fur heel/heal mussel/muscle nose/knows sweet/suite veil/vale
        wear/where right/write tide/tied leek/leak beet/beat time/thyme maze/maize paws/pause mist/missed guest/guessed
    """)
)
