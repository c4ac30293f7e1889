"""What descriptors are judged on. A benchmark has `queries` and `gallery` (lists of Photo), `relevant` and `ignored`
(indices into the gallery per query, for pictures of rankings), and `judge(scores (Q, N)) -> {name: value}`."""
