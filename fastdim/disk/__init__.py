"""Rows larger than memory: searched tile by tile under a limit, and resumable.

knn(x, memory="4GB"), cosine_stats(x, memory="4GB")
  |
rows.open_rows      memmap, .npy, .safetensors, folders, lists: mapped parts of one matrix
budget              bytes of the limit -> rows of a tile
tiles               the buffer that the kernels read, filled from the maps, read ahead
search, angles      the operations over tiles
state               what is finished, in a folder, for a process that was killed
"""
