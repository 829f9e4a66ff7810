"""What OMAR (Pan et al., 2022) claims, as checks of the rows of its store."""

from __future__ import annotations

from jaxoff.experiments.evidence import Claim, above, cannot
from jaxoff.experiments.omar import runs
from jaxoff.experiments.omar.claim_checks import (
    battles,
    centralised,
    climbs_to,
    conservative_fails,
    cost,
    flat,
    gains_by_number,
    golden,
    mazes,
    near_best,
    near_the_data,
    ordered,
    ranks_first,
    remade,
    robots,
    searches,
    task_of,
    trend,
    two_by_two,
    uniform_play,
)

PARTICLES = "`make omar-mpe SCALE=full`"
CLIMBS = {
    **{
        f"{search}, tau 0 stays": climbs_to(search, 0.0, -0.6, 0.02)
        for search in ("softmax", "cem")
    },
    **{
        f"{search}, tau {tau:g} reaches the better mode": climbs_to(search, tau, 0.4, 0.02)
        for search in ("softmax", "cem")
        for tau in (0.7, 0.9, 1.0)
    },
}
CLAIMS = (
    Claim(
        1,
        "Physics",
        "The particle worlds are those of the authors' data.",
        "One step of each world equals the published numbers within 1e-5; uniformly random play "
        "returns what it does in the original, within three standard errors.",
        {
            **{f"a step of {world}": golden(world) for world in runs.WORLDS},
            **{f"random play in {world}": uniform_play(world) for world in runs.WORLDS},
        },
        "`make evidence`, `make omar-references`",
    ),
    Claim(
        2,
        "Datasets",
        "The data are of random, medium and expert policies, and of a replay buffer up to the "
        "medium level.",
        "Our remade datasets: random returns within three standard errors of the published mean, "
        "medium within 15 %, expert with a normalised score of at least 90.",
        {
            **{
                f"{world}, {quality}": remade(world, quality)
                for world in runs.WORLDS
                for quality in ("random", "medium", "expert")
            },
            "medium-replay ends at the medium level": cannot(
                "no committed table has the returns along a replay buffer"
            ),
            "downloaded files": cannot("the store has no rows of the authors' files"),
        },
        "`make datasets`",
    ),
    Claim(
        3,
        "The motivating value",
        "An actor that climbs a value with two modes stays at the worse one; regression onto the "
        "best of a search leads it to the better one.",
        "From -0.6, tau 0 stays within .02 in 20 of 20 seeds, and tau .7, .9 and 1 end within .02 "
        "of 0.4 in 20 of 20, with both searches.",
        CLIMBS,
        "`make evidence MEASURE=motivating-value`",
    ),
    Claim(
        4,
        "Two agents on a line",
        "OMAR is above MA-CQL, and MA-CQL above MA-TD3+BC; larger or more steps of MA-CQL's "
        "actors do not close the gap.",
        "Final returns on medium-replay data: paired differences above 0, and that of OMAR and "
        "MA-CQL by two standard errors.",
        {
            "OMAR above MA-CQL": above(runs.LINE, "OMAR", "MA-CQL", errors=2.0),
            "MA-CQL above MA-TD3+BC": above(runs.LINE, "MA-CQL", "MA-TD3+BC"),
            **{f"OMAR above {x}": above(runs.LINE, "OMAR", x) for x in runs.LARGER | runs.MORE},
        },
        "`make omar-motivation SCALE=full`",
    ),
    Claim(
        5,
        "Number of agents",
        "MA-CQL's improvement over the data falls with the number of agents where they cooperate, "
        "and not where they have nothing to do with one another; OMAR's gain stays positive.",
        "The Spearman correlation is below 0 for cooperating agents and not significantly below 0 "
        "in the control; OMAR's gain is positive for one to five agents, and for several larger "
        "than for one.",
        {
            "MA-CQL falls, cooperating": trend(runs.AGENTS, True),
            "MA-CQL does not, control": trend(runs.CONTROL, False),
            "OMAR over MA-CQL": gains_by_number,
        },
        "`make omar-agents omar-control SCALE=full`",
    ),
    Claim(
        6,
        "Online and offline",
        "OMAR's objective helps online and offline, one agent and several, and most with several "
        "agents offline.",
        "No gain is below 0 by more than its 95 % interval; the largest is offline with three.",
        {"": two_by_two},
        "`make omar-online SCALE=full`",
    ),
    Claim(
        7,
        "Particle worlds",
        "OMAR is the best method on nearly all of the twelve datasets, by 10.7 points of the "
        "normalised score in their mean.",
        "OMAR is best or within one deviation in 10 of 12 cells and first in the mean by 5 points; "
        "MA-TD3+BC and MA-ICQ follow the quality of the data; MA-CQL is above MA-TD3+BC on spread "
        "but for expert data, where it is below in every world.",
        {
            "OMAR best or near": near_best,
            "OMAR first in the mean": ranks_first,
            "MA-TD3+BC follows the data": ordered("MA-TD3+BC"),
            "MA-ICQ follows the data": ordered("MA-ICQ"),
            "MA-TD3+BC near the data of spread": near_the_data,
            **{
                f"MA-CQL above MA-TD3+BC, spread {quality}": above(
                    task_of("spread", quality), "MA-CQL", "MA-TD3+BC", "score"
                )
                for quality in runs.QUALITIES[:-1]
            },
            **{f"MA-CQL fails, {world} expert": conservative_fails(world) for world in runs.WORLDS},
        },
        PARTICLES,
        ("omar/spread.md",),
    ),
    Claim(
        8,
        "Two-agent HalfCheetah",
        "OMAR is above MA-CQL on every level and clearly best on medium-replay; on expert data it "
        "is level with MA-TD3+BC, while MA-CQL falls behind.",
        "Normalised scores: see the parts.",
        {"": robots},
        "`make omar-mujoco SCALE=full`",
    ),
    Claim(
        9,
        "Mazes",
        "OMAR is above CQL in all three mazes, by more the larger the maze; ICQ stays low.",
        "Normalised scores: see the parts.",
        {"": mazes},
        "`make omar-maze SCALE=full`",
    ),
    Claim(
        10,
        "Battles",
        "OMAR wins 76.7 % more than MA-CQL on average over four maps of SMAC.",
        "On SMAX in SMAC's place: the mean over maps of the relative gain is positive.",
        {"": battles},
        "`make omar-smac SCALE=full`",
    ),
    Claim(
        11,
        "The search",
        "The softmax search is at least as good as CEM, and CEM as random shooting; its settings "
        "hardly matter.",
        "Means over the four qualities of spread; settings change them by less than 15 %.",
        {
            "softmax, CEM, random shooting": searches,
            **{f"{name} of the search": flat(name) for name in runs.SWEEPS},
        },
        "`make omar-search SCALE=full`",
    ),
    Claim(
        12,
        "Centralised critics",
        "OMAR is above MA-CQL with centralised critics too, and these do not help any method.",
        "Scores on spread: see the parts.",
        {"": centralised},
        "`make omar-centralised SCALE=full`",
    ),
    Claim(
        13,
        "Cost",
        "OMAR takes 1.05 times as long as MA-CQL.",
        "At most 1.3 times, from the training times of the particle worlds.",
        {"": cost},
        PARTICLES,
    ),
)
