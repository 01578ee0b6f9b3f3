/* SPDX-License-Identifier: MIT */
/* What one thread writes while others read it: plain loads and stores, but no torn values. */
#ifndef WS_COUNTERS_H
#define WS_COUNTERS_H

#define ws_get(field) __atomic_load_n(&(field), __ATOMIC_RELAXED)
#define ws_set(field, value) __atomic_store_n(&(field), (value), __ATOMIC_RELAXED)
#define ws_add(counter, n) ws_set(counter, ws_get(counter) + (n))

#endif
