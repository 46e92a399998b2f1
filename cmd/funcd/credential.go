package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
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
		Long: `credential makes, lists, changes and removes access keys in Consul, directly: it needs no running server, and a Consul token that may write
funcd's keys. Servers follow: what changes has its effect within seconds. The address and the token come from --config, or from CONSUL_HTTP_ADDR, CONSUL_HTTP_TOKEN, …`,
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
	var account, description string
	var quota int
	var callOnly bool
	var output cli.Output
	create := &cobra.Command{
		Use:   "create",
		Short: "Make an access key and show its secret, this once",
		Args:  cobra.NoArgs,
		RunE: with(func(ctx context.Context, c *consul.Client, _ []string) error {
			cred := api.Credential{
				AccessKey:   "AK" + rand.Text()[:18],
				Secret:      rand.Text() + rand.Text()[:14], // 200 bits
				Account:     account,
				CallOnly:    callOnly,
				Quota:       quota,
				Description: description,
				Created:     api.Timestamp{Time: time.Now()},
			}
			if err := cred.Validate(); err != nil {
				return usageError{fmt.Errorf("--%w", err)}
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
	create.Flags().BoolVar(&callOnly, "call-only", false, "the key may not manage functions, only sign their calls")
	create.Flags().IntVar(&quota, "quota", 0, "calls of the account that may be executed at once; the largest of its keys counts (default the server's quota)")
	create.Flags().StringVar(&description, "description", "", "whose the key is, or what it is for")

	update := &cobra.Command{
		Use:   "update ACCESS_KEY",
		Short: "Change the quota or the description of an access key",
		Args:  cobra.ExactArgs(1),
	}
	update.RunE = with(func(ctx context.Context, c *consul.Client, keys []string) error {
		if !update.Flags().Changed("quota") && !update.Flags().Changed("description") {
			return usageError{errors.New("update needs --quota or --description")}
		}
		cred, err := c.UpdateCredential(ctx, keys[0], func(cred *api.Credential) {
			if update.Flags().Changed("quota") {
				cred.Quota = quota
			}
			if update.Flags().Changed("description") {
				cred.Description = description
			}
		})
		if api.CodeOf(err) == api.Invalid {
			return usageError{fmt.Errorf("--%w", err)}
		}
		if err != nil {
			return fmt.Errorf("%s: %w", keys[0], err)
		}
		if output.JSON() {
			return cli.WriteJSON(std.out, shown(cred, ""))
		}
		_, err = fmt.Fprintln(std.out, cred.AccessKey)
		return err
	})
	update.Flags().IntVar(&quota, "quota", 0, "calls of the account that may be executed at once; 0 for the server's quota")
	update.Flags().StringVar(&description, "description", "", "whose the key is, or what it is for")

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
			fmt.Fprintln(w, "ACCESS KEY\tACCOUNT\tMAY\tQUOTA\tCREATED\tDESCRIPTION")
			for _, cred := range credentials {
				may := "everything"
				if cred.CallOnly {
					may = "call"
				}
				quota := "-"
				if cred.Quota > 0 {
					quota = strconv.Itoa(cred.Quota)
				}
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", cred.AccessKey, cred.Account, may, quota, cred.Created.UTC().Format(time.RFC3339), cred.Description)
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
	for _, sub := range []*cobra.Command{create, list, update, remove} {
		output.AddFlag(sub)
		cmd.AddCommand(sub)
	}
	return cmd
}

// credentialJSON is a credential in the output of a command, with its secret only where that is shown.
type credentialJSON struct {
	AccessKey   string
	SecretKey   string `json:",omitempty"`
	Account     string
	CallOnly    bool
	Quota       int    `json:",omitempty"`
	Description string `json:",omitempty"`
	Created     api.Timestamp
}

func shown(c api.Credential, secret string) credentialJSON {
	return credentialJSON{
		AccessKey: c.AccessKey, SecretKey: secret, Account: c.Account, CallOnly: c.CallOnly, Quota: c.Quota, Description: c.Description, Created: c.Created,
	}
}
