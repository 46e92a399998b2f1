package consul

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// told writes changes as "+key=value", "key:old→new" and "-key".
func told(changes []change[string]) string {
	var words []string
	for _, ch := range changes {
		switch {
		case ch.old == nil:
			words = append(words, "+"+ch.key+"="+*ch.now)
		case ch.now == nil:
			words = append(words, "-"+ch.key)
		default:
			words = append(words, ch.key+":"+*ch.old+"→"+*ch.now)
		}
	}
	return strings.Join(words, " ")
}

func TestTable(t *testing.T) {
	t.Parallel()
	rec := func(key string, index uint64) record[string] {
		return record[string]{key: key, index: index, value: fmt.Sprint(index)}
	}
	list := func(index, asked uint64, records ...record[string]) func(*table[string]) []change[string] {
		return func(t *table[string]) []change[string] { return t.sync(records, index, asked) }
	}
	put := func(key string, index uint64) func(*table[string]) []change[string] {
		return func(t *table[string]) []change[string] { return t.put(rec(key, index)) }
	}
	remove := func(key string, index uint64) func(*table[string]) []change[string] {
		return func(t *table[string]) []change[string] { return t.remove(key, index) }
	}
	type step struct {
		do   func(*table[string]) []change[string]
		told string
	}
	for name, test := range map[string]struct {
		steps []step
		has   string
	}{
		"a list tells what is new, changed and gone": {
			[]step{
				{list(5, 0, rec("a", 3), rec("b", 5)), "+a=3 +b=5"},
				{list(9, 0, rec("b", 8), rec("c", 9)), "-a b:5→8 +c=9"},
				{list(9, 0, rec("b", 8), rec("c", 9)), ""},
			}, "b=8 c=9"},
		"a list of before a creation does not undo it": {
			[]step{{list(5, 0), ""}, {put("a", 7), "+a=7"}, {list(6, 0), ""}}, "a=7"},
		"a list of before an update does not undo it": {
			[]step{{list(5, 0, rec("a", 5)), "+a=5"}, {put("a", 7), "a:5→7"}, {list(6, 0, rec("a", 5)), ""}}, "a=7"},
		"a list of before a deletion does not undo it": {
			[]step{{list(5, 0, rec("a", 5)), "+a=5"}, {remove("a", 5), "-a"}, {list(6, 0, rec("a", 5)), ""}}, ""},
		"a list on its way brings what another one created after the deletion": {
			[]step{{list(5, 0, rec("a", 5)), "+a=5"}, {remove("a", 5), "-a"}, {list(8, 0, rec("a", 8)), "+a=8"}}, "a=8"},
		"a list on its way brings what another one changed after the update": {
			[]step{{put("a", 7), "+a=7"}, {list(8, 0, rec("a", 8)), "a:7→8"}}, "a=8"},
		"a list on its way tells that another one deleted after the creation": {
			[]step{{put("a", 7), "+a=7"}, {list(8, 0), "-a"}}, ""},
		"a list that was asked for after a creation is right about it, though Consul forgot the deletion's index": {
			[]step{{put("a", 7), "+a=7"}, {list(5, 1), "-a"}}, ""},
		"a list that was asked for after a write is right about it, though indexes begin anew": {
			[]step{{put("a", 700), "+a=700"}, {list(5, 1, rec("a", 4)), "a:700→4"}}, "a=4"},
		"a list that was asked for after a deletion is right about it": {
			[]step{{list(500, 0, rec("a", 500)), "+a=500"}, {remove("a", 500), "-a"}, {list(9, 1, rec("a", 8)), "+a=8"}}, "a=8"},
		"a record that comes after the list that ended it is dropped": {
			[]step{{list(9, 0), ""}, {put("a", 7), ""}}, ""},
		"a record that comes after a newer one is dropped": {
			[]step{{put("a", 7), "+a=7"}, {put("a", 6), ""}}, "a=7"},
		"a record that was read before a deletion is dropped": {
			[]step{{put("a", 7), "+a=7"}, {remove("a", 7), "-a"}, {put("a", 7), ""}}, ""},
		"what is created anew after a deletion is taken": {
			[]step{{put("a", 7), "+a=7"}, {remove("a", 7), "-a"}, {put("a", 9), "+a=9"}, {list(8, 0), ""}}, "a=9"},
		"a deletion that comes after the list with the next one of its name is dropped": {
			[]step{{put("a", 7), "+a=7"}, {list(9, 1, rec("a", 9)), "a:7→9"}, {remove("a", 7), ""}}, "a=9"},
		"the deletion of what was never known still holds back a list on its way": {
			[]step{{remove("a", 7), ""}, {list(7, 0, rec("a", 7)), ""}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table := &table[string]{rows: map[string]row[string]{}, gone: map[string]deletion{}}
			for i, step := range test.steps {
				require.Equal(t, step.told, told(step.do(table)), "step %d", i)
			}
			var has []string
			for _, key := range slices.Sorted(maps.Keys(table.rows)) {
				has = append(has, key+"="+*table.rows[key].value)
			}
			require.Equal(t, test.has, strings.Join(has, " "))
		})
	}
}

func TestTableForgetsDeletions(t *testing.T) {
	t.Parallel()
	table := &table[string]{rows: map[string]row[string]{}, gone: map[string]deletion{}}
	table.remove("a", 5)
	asked := table.clock
	table.remove("b", 6)
	table.sync(nil, 7, asked)
	require.Len(t, table.gone, 1)
	require.Contains(t, table.gone, "b")
}
