// The one place that picks a table of leaves by level.
#pragma once

#include <type_traits>

#include "isa.h"

#if defined(FASTDIM_AVX2)
#define FASTDIM_IF_AVX2(table) table
#else
#define FASTDIM_IF_AVX2(table) nullptr
#endif
#if defined(FASTDIM_AVX512)
#define FASTDIM_IF_AVX512(table) table
#else
#define FASTDIM_IF_AVX512(table) nullptr
#endif
#if defined(FASTDIM_AVX512_BF16)
#define FASTDIM_IF_AVX512_BF16(table) table
#else
#define FASTDIM_IF_AVX512_BF16(table) nullptr
#endif
#if defined(FASTDIM_AVX512_AMX)
#define FASTDIM_IF_AVX512_AMX(table) table
#else
#define FASTDIM_IF_AVX512_AMX(table) nullptr
#endif

namespace fastdim {

template <class Table>
using TableOf = const Table* (*)();

// Of the three functions the one of the level; a level that was not built (null) is none that
// resolve_isa returns.
template <class Table>
const Table& at_level(Isa isa, TableOf<Table> scalar, std::common_type_t<TableOf<Table>> avx2,
                      std::common_type_t<TableOf<Table>> avx512) {
  if (isa == Isa::avx512 && avx512) return *avx512();
  if (isa == Isa::avx2 && avx2) return *avx2();
  return *scalar();
}

// The table of a feature inside a level, null if it was not built or cannot run here.
template <class Table>
const Table* table_if(bool runs, TableOf<Table> table) {
  return runs && table ? table() : nullptr;
}

}  // namespace fastdim
