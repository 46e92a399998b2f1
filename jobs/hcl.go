package jobs

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	nomad "github.com/hashicorp/nomad/api"
	"github.com/zclconf/go-cty/cty"
	ctyjson "github.com/zclconf/go-cty/cty/json"
)

// HCL returns the job as a job file, as Render has made it. Nomad reads the same job out of it.
func HCL(job *nomad.Job) ([]byte, error) {
	file := hclwrite.NewEmptyFile()
	body := file.Body().AppendNewBlock("job", []string{*job.ID}).Body()
	if err := writeStruct(body, reflect.ValueOf(*job)); err != nil {
		return nil, err
	}
	return hclwrite.Format(file.Bytes()), nil
}

// writeStruct writes the fields of one of Nomad's structs by their hcl tags, those that are set: attributes first, then blocks.
func writeStruct(body *hclwrite.Body, v reflect.Value) error {
	var blocks []func() error
	for i := range v.NumField() {
		name, kind, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ",")
		field := v.Field(i)
		if name == "" || name == "id" || kind == "label" || field.IsZero() {
			continue
		}
		if name == "reserved_ports" {
			name = "port" // a port with a number, which the job file has no other block for
		}
		if kind == "block" && !isObject(field) {
			blocks = append(blocks, func() error { return writeBlocks(body, name, field) })
			continue
		}
		value, err := valueOf(field)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		body.SetAttributeValue(name, value)
	}
	for _, write := range blocks {
		if err := write(); err != nil {
			return err
		}
	}
	return nil
}

// isObject tells those blocks of whatever names that only an object can hold: meta has names that are not HCL's. Elsewhere Nomad takes a block alone.
func isObject(v reflect.Value) bool {
	object, ok := v.Interface().(map[string]string)
	return ok && !allIdentifiers(object)
}

func allIdentifiers(m map[string]string) bool {
	for name := range m {
		if !hclsyntax.ValidIdentifier(name) {
			return false
		}
	}
	return true
}

func writeBlocks(body *hclwrite.Body, name string, v reflect.Value) error {
	switch v.Kind() {
	case reflect.Slice:
		for i := range v.Len() {
			if err := writeBlocks(body, name, v.Index(i)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Pointer:
		return writeBlocks(body, name, v.Elem())
	case reflect.Map:
		keys := v.MapKeys()
		slices.SortFunc(keys, func(a, b reflect.Value) int { return strings.Compare(a.String(), b.String()) })
		if v.Type().Elem().Kind() != reflect.Pointer { // of attributes
			body = body.AppendNewBlock(name, nil).Body()
			for _, key := range keys {
				value, err := valueOf(v.MapIndex(key))
				if err != nil {
					return fmt.Errorf("%s: %w", key, err)
				}
				body.SetAttributeValue(key.String(), value)
			}
			return nil
		}
		for _, key := range keys {
			if err := writeBlocks(body, name, v.MapIndex(key)); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
		return writeStruct(body.AppendNewBlock(name, labels(v)).Body(), v)
	}
	return fmt.Errorf("%s: a block can't be of %s", name, v.Type())
}

func labels(v reflect.Value) []string {
	for i := range v.NumField() {
		if _, kind, _ := strings.Cut(v.Type().Field(i).Tag.Get("hcl"), ","); kind == "label" {
			return []string{reflect.Indirect(v.Field(i)).String()}
		}
	}
	return nil
}

// valueOf returns an attribute's value. Durations are texts in a job file. What Nomad replaces in a text stays as it is written: HCL's own templates are
// escaped.
func valueOf(v reflect.Value) (cty.Value, error) {
	v = reflect.Indirect(v)
	if d, ok := v.Interface().(time.Duration); ok {
		return cty.StringVal(d.String()), nil
	}
	text, err := json.Marshal(v.Interface())
	if err != nil {
		return cty.NilVal, err
	}
	kind, err := ctyjson.ImpliedType(text)
	if err != nil {
		return cty.NilVal, err
	}
	return ctyjson.Unmarshal(text, kind)
}
