// The first k of some elements in an order.
#pragma once

#include <algorithm>
#include <cstddef>
#include <utility>

namespace fastdim {

// Moves the k elements that come first to the front, in no order. `before` is a strict total order
// that does not branch: quickselect whose partitions take no branch that depends on the elements,
// which a processor cannot foresee. Orders that make it slow end in std::nth_element.
template <class Element, class Before>
void select_first(Element* elements, std::size_t count, std::size_t k, const Before& before) {
  constexpr std::size_t few = 12;
  constexpr int most_rounds = 48;
  std::size_t begin = 0, end = count;
  if (k == 0 || k >= count) return;
  for (int round = 0; end - begin > few; ++round) {
    if (round == most_rounds) {
      std::nth_element(elements + begin, elements + (k - 1), elements + end, before);
      return;
    }
    // The median of three, at the end for as long as the others are divided.
    Element* last = elements + end - 1;
    Element* middle = elements + (begin + (end - begin) / 2);
    if (before(*middle, elements[begin])) std::swap(*middle, elements[begin]);
    if (before(*last, elements[begin])) std::swap(*last, elements[begin]);
    if (before(*middle, *last)) std::swap(*middle, *last);
    const Element pivot = *last;
    std::size_t less = begin;
    for (std::size_t i = begin; i + 1 < end; ++i) {
      const Element element = elements[i];
      elements[i] = elements[less];
      elements[less] = element;
      less += static_cast<std::size_t>(before(element, pivot));
    }
    std::swap(elements[less], *last);
    if (less == k || less + 1 == k) return;
    if (less > k)
      end = less;
    else
      begin = less + 1;
  }
  std::sort(elements + begin, elements + end, before);
}

}  // namespace fastdim
