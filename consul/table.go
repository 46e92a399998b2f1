package consul

import (
	"maps"
	"slices"
)

// record is a value as Consul keeps it.
type record[V any] struct {
	key   string // without the prefix that all of its kind have
	index uint64 // Consul's ModifyIndex: grows with each change of the value
	value V
}

// change is what became of one value: old is nil for a new one, now is nil for one that is gone.
type change[V any] struct {
	key      string
	old, now *V
}

// table is what a server knows of the values of one kind. It hears of them in two ways that overtake each other: lists, which come
// from the watch and hold everything, and single records, which this server has just written or read. The table takes from each only
// what is news, so that neither a list that was asked for before a write undoes it, nor a late record brings back what a list has ended.
// It is not safe for concurrent use.
type table[V any] struct {
	rows   map[string]row[V]
	gone   map[string]deletion // what this server has deleted and a list that is on its way may still hold
	listed uint64              // index of the latest list: it holds every change up to this one
	clock  uint64              // counts put and remove
}

type row[V any] struct {
	value *V
	index uint64
	at    uint64 // the clock when put has written it, 0 if it is from a list
}

type deletion struct {
	index uint64 // of the value that was deleted; any newer value was created after it
	at    uint64
}

// put takes a record that was written or read by itself.
func (t *table[V]) put(r record[V]) []change[V] {
	t.clock++
	current, known := t.rows[r.key]
	gone, deleted := t.gone[r.key]
	switch {
	case known && current.index >= r.index: // the list was faster, or it is known
		return nil
	case !known && r.index <= t.listed: // the list knows that it is gone
		return nil
	case deleted && r.index <= gone.index:
		return nil
	}
	delete(t.gone, r.key)
	t.rows[r.key] = row[V]{value: &r.value, index: r.index, at: t.clock}
	return []change[V]{{key: r.key, old: current.value, now: &r.value}}
}

// remove takes the deletion of the record that had this index.
func (t *table[V]) remove(key string, index uint64) []change[V] {
	t.clock++
	current, known := t.rows[key]
	if known && current.index > index { // created anew since, and the list was faster
		return nil
	}
	t.gone[key] = deletion{index: index, at: t.clock}
	if !known {
		return nil
	}
	delete(t.rows, key)
	return []change[V]{{key: key, old: current.value}}
}

// sync takes a list, its index, and the clock from before it was asked for. A list that was asked for after a put or remove is right
// about it, whatever the indexes are: they begin anew when Consul is restored from a snapshot. One that was asked for before may hold it
// or not, which the index tells.
func (t *table[V]) sync(list []record[V], index, asked uint64) []change[V] {
	var changes []change[V]
	rows := make(map[string]row[V], len(list))
	for _, r := range list {
		current, known := t.rows[r.key]
		gone, deleted := t.gone[r.key]
		switch {
		case deleted && gone.at > asked && r.index <= gone.index:
			continue
		case known && (r.index == current.index || current.at > asked && r.index < current.index):
			rows[r.key] = current
			continue
		}
		rows[r.key] = row[V]{value: &r.value, index: r.index}
		changes = append(changes, change[V]{key: r.key, old: current.value, now: &r.value})
	}

	var removed []change[V]
	for _, key := range slices.Sorted(maps.Keys(t.rows)) {
		if _, ok := rows[key]; ok {
			continue
		}
		if current := t.rows[key]; current.at > asked && current.index > index {
			rows[key] = current
		} else {
			removed = append(removed, change[V]{key: key, old: current.value})
		}
	}

	maps.DeleteFunc(t.gone, func(_ string, d deletion) bool { return d.at <= asked })
	t.rows, t.listed = rows, index
	return append(removed, changes...)
}
