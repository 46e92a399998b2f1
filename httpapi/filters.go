package httpapi

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/funcd/funcd/api"
)

// parseFilters reads Docker's JSON form of filters, {"name":{"a":true}} or the older {"name":["a"]}, and returns what they match: values of
// the same key are a union, different keys an intersection. The error is of code Invalid.
func parseFilters(text string) (matches func(*api.Function) bool, err error) {
	if text == "" {
		return func(*api.Function) bool { return true }, nil
	}
	filters := map[string][]string{}
	var sets map[string]map[string]bool
	if err := json.Unmarshal([]byte(text), &sets); err == nil {
		for key, values := range sets {
			for value := range values {
				filters[key] = append(filters[key], value)
			}
		}
	} else if err := json.Unmarshal([]byte(text), &filters); err != nil {
		return nil, api.Errorf(api.Invalid, `filters: must be JSON of the form {"name":{"value":true}}`)
	}
	for key := range filters {
		if filterBy[key] == nil {
			return nil, api.Errorf(api.Invalid, "filters: %.100q must be one of name, label, size, image", key)
		}
	}
	return func(f *api.Function) bool {
		for key, values := range filters {
			if len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return filterBy[key](f, v) }) {
				return false
			}
		}
		return true
	}, nil
}

var filterBy = map[string]func(f *api.Function, value string) bool{
	"name":  func(f *api.Function, v string) bool { return strings.Contains(f.Name, v) },
	"size":  func(f *api.Function, v string) bool { return f.ContainerSize == v },
	"image": func(f *api.Function, v string) bool { return f.Config.Image == v },
	"label": func(f *api.Function, v string) bool {
		key, want, hasValue := strings.Cut(v, "=")
		value, ok := f.Config.Labels[key]
		return ok && (!hasValue || value == want)
	},
}
