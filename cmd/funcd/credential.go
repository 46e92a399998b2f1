package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/funcd/funcd/api"
	"github.com/funcd/funcd/cli"
	"github.com/funcd/funcd/consul"
)

// credentialCommand manages access keys where they are kept, in Consul: whoever may write there decides who may use funcd.
func credentialCommand(std stdio) *cobra.Command {
	var configFile string
	cmd := &cobra.Command{
		Use:   "credential",
		Short: "Manage the access keys that management requests are signed with",
		Long: `credential makes, lists and removes access keys in Consul, directly: it needs no running server, and a Consul token that may write
funcd's keys. The address and the token come from --config, or from CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVar(&configFile, "config", "", "configuration file of the server, for its consul block")
	// with calls do with a client of the configured Consul.
	with := func(do func(ctx context.Context, c *consul.Client, args []string) error) func(*cobra.Command, []string) error {
		return func(cmd *cobra.Command, args []string) error {
			cfg, err := loadConfig(configFile)
			if err != nil {
				return usageError{err}
			}
			c, err := consul.New(consul.Config{
				Address: cfg.Consul.Address, Token: cfg.Consul.Token, Prefix: cfg.Consul.Prefix,
				Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				return usageError{err}
			}
			defer c.Close()
			return do(cmd.Context(), c, args)
		}
	}
	var account string
	var callOnly bool
	var output cli.Output
	create := &cobra.Command{
		Use:   "create",
		Short: "Make an access key and show its secret, this once",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, c *consul.Client, _ []string) error {
			if !api.ValidAccount(account) {
				return usageError{fmt.Errorf("--account: %q must be 1 to 63 of a-z, 0-9 and _, beginning with a letter or a digit", account)}
			}
			cred := api.Credential{
				AccessKey: "AK" + rand.Text()[:18],
				Secret:    rand.Text() + rand.Text()[:14], // 200 bits
				Account:   account,
				CallOnly:  callOnly,
				Created:   api.Timestamp{Time: time.Now()},
			}
			if err := c.CreateCredential(ctx, cred); err != nil {
				return err
			}
			if output.JSON() {
				return cli.WriteJSON(std.out, shown(cred, cred.Secret))
			}
			_, err := fmt.Fprintf(std.out, "Account:    %s\nAccess key: %s\nSecret key: %s\n", cred.Account, cred.AccessKey, cred.Secret)
			return err
		}),
	}
	create.Flags().StringVar(&account, "account", devAccount, "the account that the key acts for")
	create.Flags().BoolVar(&callOnly, "call-only", false, "the key may not manage functions")

	list := &cobra.Command{
		Use:   "ls",
		Short: "List the access keys, without their secrets",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, c *consul.Client, _ []string) error {
			credentials, err := c.Credentials(ctx)
			if err != nil {
				return err
			}
			if output.JSON() {
				list := make([]credentialJSON, len(credentials))
				for i, cred := range credentials {
					list[i] = shown(cred, "")
				}
				return cli.WriteJSON(std.out, list)
			}
			w := tabwriter.NewWriter(std.out, 0, 0, 3, ' ', 0)
			fmt.Fprintln(w, "ACCESS KEY\tACCOUNT\tMAY\tCREATED")
			for _, cred := range credentials {
				may := "everything"
				if cred.CallOnly {
					may = "call"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", cred.AccessKey, cred.Account, may, cred.Created.UTC().Format(time.RFC3339))
			}
			return w.Flush()
		}),
	}
	remove := &cobra.Command{
		Use:   "rm ACCESS_KEY…",
		Short: "Remove access keys; what they have made stays their account's",
		Args:  cobra.MinimumNArgs(1),
		RunE: with(func(ctx context.Context, c *consul.Client, keys []string) error {
			removed := []string{}
			var failed error
			for _, key := range keys {
				if err := c.DeleteCredential(ctx, key); err != nil {
					failed = errors.Join(failed, fmt.Errorf("%s: %w", key, err))
					continue
				}
				removed = append(removed, key)
				if !output.JSON() {
					fmt.Fprintln(std.out, key)
				}
			}
			if output.JSON() {
				failed = errors.Join(cli.WriteJSON(std.out, removed), failed)
			}
			return failed
		}),
	}
	for _, sub := range []*cobra.Command{create, list, remove} {
		output.AddFlag(sub)
		cmd.AddCommand(sub)
	}
	return cmd
}

// credentialJSON is a credential in the output of a command, with its secret only where that is shown.
type credentialJSON struct {
	AccessKey string
	SecretKey string `json:",omitempty"`
	Account   string
	CallOnly  bool
	Created   api.Timestamp
}

func shown(c api.Credential, secret string) credentialJSON {
	return credentialJSON{AccessKey: c.AccessKey, SecretKey: secret, Account: c.Account, CallOnly: c.CallOnly, Created: c.Created}
}
