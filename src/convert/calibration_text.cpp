// SPDX-License-Identifier: MIT
// Written for this project.
#include "convert/calibration.h"

namespace qwen3_mlx {

std::string_view built_in_calibration_text() {
  // clang-format off
  return
R"text(The harbour was already awake when Marta came down the stone steps. Two boats had returned in the night, and the men on the quay were sorting their catch into blue crates while the gulls argued above them. She bought half a kilo of mackerel, as she did every Friday, and asked the oldest of the fishermen whether the weather would hold. He looked at the hills behind the town instead of at the sea. "Until Sunday," he said. "After that I would stay at home."

)text"
R"text(She thought about this on the way up. Her brother had promised to repair the roof before the autumn rain, and he had promised it in April, in June and again last week. It was not that he was lazy; he simply believed that there was always more time. Their father had been the same. When he died they had found eleven half-finished clocks in the cellar, each with a note that said what was still missing.

)text"
R"text(Water boils at 100 degrees Celsius at sea level, but at the top of a mountain of 3,000 metres it boils at about 90 degrees, because the pressure of the air is lower there. This is why pasta takes longer to cook in the mountains: the water is boiling, but it is not as hot. A pressure cooker does the opposite. It keeps the steam inside, the pressure rises to about twice that of the atmosphere, and the water stays liquid up to roughly 120 degrees.

)text"
R"text(The first public library of the city opened in 1871 in two rooms above a bakery. It owned 412 books, most of them gifts, and was open on three evenings a week. Within ten years the number of volumes had grown to nine thousand, and the council decided to build a house for them. The architect, who had until then designed railway stations, gave the reading room an iron roof and a clock that could be seen from every desk.

)text"
R"text(Question: A train leaves at 9:40 and arrives at 13:05. The distance is 287 kilometres. What is its average speed?
Answer: From 9:40 to 13:05 are 3 hours and 25 minutes, which is 205 minutes or 205/60 = 3.4167 hours. The average speed is 287 / 3.4167 = 84 kilometres per hour.

)text"
R"text(Question: Which of these numbers are prime: 51, 53, 57, 59?
Answer: 51 = 3 * 17 and 57 = 3 * 19 are not prime. 53 and 59 are not divisible by 2, 3, 5 or 7, and 11 * 11 is already more than both, so they are prime.

)text"
R"text(User: Could you explain what a hash table is, in two or three sentences?
Assistant: A hash table stores pairs of keys and values in an array. A function turns each key into a number, and the number says at which place of the array the pair lies, so that it is found in about the same time however many pairs there are. When two keys lead to the same place, the table keeps both there, for example in a short list.
User: And when does it become slow?
Assistant: When many keys share a place, because then the list has to be searched. That happens if the function spreads the keys badly or if the array is too small for them; the usual cure is to make the array larger and to insert all pairs again.

)text"
R"text(def moving_average(values, width):
    """The means of all runs of `width` neighbours."""
    if width < 1 or width > len(values):
        raise ValueError("width must be between 1 and the number of values")
    total = sum(values[:width])
    means = [total / width]
    for i in range(width, len(values)):
        total += values[i] - values[i - width]
        means.append(total / width)
    return means

)text"
R"text(#include <cstdio>
#include <vector>

)text"
R"text(int main() {
  std::vector<int> primes;
  for (int n = 2; primes.size() < 100; ++n) {
    bool is_prime = true;
    for (int p : primes) {
      if (p * p > n) break;
      if (n % p == 0) { is_prime = false; break; }
    }
    if (is_prime) primes.push_back(n);
  }
  std::printf("the hundredth prime is %d\n", primes.back());
}

)text"
R"text({"name": "greenhouse-3", "online": true, "sensors": [{"id": 17, "kind": "temperature", "unit": "C", "value": 21.5}, {"id": 18, "kind": "humidity", "unit": "%", "value": 63}], "updated": "2024-05-17T06:30:00Z"}

)text"
R"text(SELECT customers.name, COUNT(orders.id) AS n_orders, SUM(orders.total) AS revenue
FROM customers LEFT JOIN orders ON orders.customer_id = customers.id
WHERE orders.created_at >= '2023-01-01'
GROUP BY customers.name ORDER BY revenue DESC LIMIT 10;

)text"
R"text(| month | rain (mm) | sun (h) | mean (C) |
|---|---|---|---|
| January | 62 | 51 | 1.4 |
| April | 47 | 168 | 9.8 |
| July | 79 | 224 | 19.6 |
| October | 58 | 109 | 10.7 |

)text"
R"text(To make the dough, mix 500 g of flour with 7 g of dry yeast and 10 g of salt. Add 320 ml of lukewarm water and a spoon of olive oil, and knead for ten minutes until the dough is smooth and no longer sticks. Cover it and let it rise for an hour in a warm place. Then:
1. Heat the oven to 240 degrees with the tray inside.
2. Cut the dough into four pieces and roll them out thinly.
3. Spread the tomatoes on them, but leave a finger's width free at the edge.
4. Bake for eight to ten minutes, until the edges are brown.

)text"
R"text(If f(x) = x^3 - 6x^2 + 9x + 1, then f'(x) = 3x^2 - 12x + 9 = 3(x - 1)(x - 3). The derivative is zero at x = 1 and x = 3. Since f''(x) = 6x - 12 is negative at 1 and positive at 3, the function has a maximum f(1) = 5 and a minimum f(3) = 1.

)text"
R"text(Der Zug nach Hamburg hatte an diesem Morgen zwanzig Minuten Verspätung, und auf dem Bahnsteig wurde es langsam kalt. Ein älterer Herr las laut aus der Zeitung vor, obwohl ihm niemand zuhörte. "Morgen soll es schneien", sagte er schließlich, faltete das Blatt zusammen und lächelte.

)text"
R"text(Le marché se tient chaque samedi sur la place de l'église. On y trouve des légumes, du fromage de chèvre, du miel et, vers la fin de l'été, les premières pommes. Les habitants viennent autant pour parler que pour acheter, et les conversations durent souvent plus longtemps que les courses.

)text"
R"text(La biblioteca cierra a las ocho, pero los viernes abre hasta las diez de la noche. Los estudiantes ocupan casi todas las mesas durante los exámenes; el resto del año hay sitio de sobra y mucho silencio.

)text"
R"text(今天早上下了一场小雨，街道上很安静。小店的老板把椅子搬到门口，一边喝茶一边看书。过了一会儿，孩子们背着书包从他面前跑过，笑着向他问好。

)text"
R"text(Сегодня утром в парке было тихо. Старый сторож подметал дорожки, а на скамейке у пруда сидела девочка и рисовала уток.

)text"
R"text(Dear Ms Okafor,
thank you for your letter of 3 March. We have looked into the delivery that you describe and found that the parcel was handed to a neighbour at number 14 on Tuesday afternoon. Our driver should have left a card; we are sorry that he did not. Please let us know if the parcel has not reached you by the end of this week, and we will send the books again at no cost.
Yours sincerely,
the customer service

)text"
R"text(There are three ways to look at a budget. The first asks where the money went, the second where it should go, and the third what would happen if there were less of it. Most households only ever ask the first question, and most companies the second. The third is the one that matters in a bad year, and it is best answered in a good one.

)text"
R"text(Bees find their way by the sun. When the sky is covered they use the polarisation of the light, which tells them where the sun is behind the clouds. A forager that has found flowers dances on the comb: the angle of the dance to the vertical is the angle of the flight to the sun, and the longer she waggles, the farther it is. One second stands for about a kilometre.

)text"
R"text(The committee met on 12 November with seven of its nine members present. The minutes of the last meeting were approved without changes. The treasurer reported a surplus of 1,240 euros, most of it from the summer concert, and proposed to keep half of it for the repair of the piano. After a short discussion this was accepted with six votes to one. The next meeting will take place on 14 January at 19:30.
)text";
  // clang-format on
}

} // namespace qwen3_mlx
